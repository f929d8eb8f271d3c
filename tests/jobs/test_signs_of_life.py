"""What a worker tells of itself while it works and while it drains."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from models.store.workers import live_workers
from models.tables import workers
from tests.jobs.conftest import MODEL, JobStore
from tests.jobs.scripted_engine import Script, ScriptedEngine
from tests.servers import wait_until
from worker.service import WorkerService


def worker_row(store: JobStore) -> dict[str, Any]:
    with store.database.read() as connection:
        return dict(connection.execute(select(workers)).mappings().one())


def test_every_beat_tells_the_memory_of_the_engine(store: JobStore, script: Script) -> None:
    service = WorkerService(store.settings, MODEL, spawn=script.spawn)
    service.start()
    try:
        wait_until(lambda: len(live_workers(store.database)) == 1, "the worker is registered")
        (worker,) = live_workers(store.database)
        assert worker.rss_bytes == ScriptedEngine.rss_bytes
        script.engines[0].rss_bytes = 950
        wait_until(lambda: worker_row(store)["rss_bytes"] == 950, "the next beat tells it")
        assert worker_row(store)["peak_rss_bytes"] == ScriptedEngine.peak_rss_bytes
    finally:
        service.ask_to_stop()
        assert service.join(20)


def test_a_worker_that_drains_says_so_before_it_gives_back_what_it_holds(
    store: JobStore, script: Script
) -> None:
    batch_id = store.submit(8)
    script.holds = lambda _: True
    told: list[bool] = []

    def look() -> None:
        if script.cancelled and not told:  # draining begins by cancelling what runs
            wait_until(lambda: worker_row(store)["draining"], "the worker says that it drains")
            told.append(any(chunk.worker_id for chunk in store.chunks(batch_id)))

    script.on_turn = look
    # No beat comes by itself within the test.
    service = WorkerService(
        store.settings.model_copy(update={"sweep_period_s": 600}), MODEL, spawn=script.spawn
    )
    service.start()
    wait_until(
        lambda: any(chunk.worker_id for chunk in store.chunks(batch_id)), "the chunk is held"
    )
    assert not worker_row(store)["draining"]
    service.ask_to_stop()
    assert service.join(20)
    assert told == [True]
    assert worker_row(store)["left_at"] is not None
