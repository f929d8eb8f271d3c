"""The worker without servers: one batch in the caller's thread, or all until told to stop."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import text

from models.database import connect_database
from models.errors import UnsupportedModel
from models.states import BatchState, ChunkState
from models.store.batches import cancel_batch
from models.store.leases import claim_chunk
from models.store.views import Batch, Ring
from models.store.workers import find_model, live_workers
from tests.jobs.conftest import CHUNK_REQUESTS, MODEL, JobStore, Later, expected_texts
from tests.jobs.scripted_engine import Script
from worker.doorbell import InProcessDoorbell
from worker.embedded import EmbeddedWorker
from worker.service import WorkerService
from worker.worker_id import maker_of, new_worker_id


def embedded(store: JobStore, script: Script, **changes: object) -> EmbeddedWorker:
    settings = store.settings.model_copy(update=changes)
    return EmbeddedWorker(settings, store.database, MODEL, spawn=script.spawn)


def wait_for(holds: Callable[[], bool], *, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.02)


def test_runs_a_batch_and_tells_how_it_goes(store: JobStore, script: Script) -> None:
    batch_id = store.submit(40)
    script.per_turn = 1
    told: list[Batch] = []
    worker = embedded(store, script)
    batch = worker.run_batch(batch_id, on_progress=told.append)
    assert batch.state is BatchState.COMPLETED
    assert store.texts(batch_id) == expected_texts(40)
    assert told[-1] == batch
    counts = [seen.completed for seen in told]
    assert counts == sorted(counts)
    assert worker.peak_rss_bytes > 0
    assert worker.forward_s == script.engines[0].forward_s
    assert worker.load_s > 0


def test_a_batch_that_ended_needs_no_engine(store: JobStore, script: Script) -> None:
    batch_id = store.submit(8)
    embedded(store, script).run_batch(batch_id)
    embedded(store, script).run_batch(batch_id)
    assert len(script.engines) == 1


def test_stopping_keeps_what_finished_and_running_again_goes_on(
    store: JobStore, script: Script
) -> None:
    batch_id = store.submit(40)
    script.per_turn = 1
    batch = embedded(store, script).run_batch(
        batch_id, should_stop=lambda: len(script.answered) >= 5
    )
    assert batch.state is BatchState.IN_PROGRESS
    assert batch.completed == len(script.answered)
    assert embedded(store, script).run_batch(batch_id).state is BatchState.COMPLETED
    assert len(script.answered) == 40


def test_a_wish_to_stop_does_not_wait_for_a_model_that_loads(
    store: JobStore, script: Script
) -> None:
    batch_id = store.submit(8)
    script.loads_for_ever = True
    batch = embedded(store, script).run_batch(batch_id, should_stop=lambda: bool(script.engines))
    assert batch.completed == 0
    service = WorkerService(store.settings, MODEL, spawn=script.spawn)
    service.start()
    wait_for(lambda: len(script.engines) == 2)
    service.ask_to_stop()
    assert service.join(20)
    assert (service.exit_code, service.failure) == (0, None)


def test_other_batches_are_left_alone(store: JobStore, script: Script) -> None:
    other, mine = store.submit(8), store.submit(8)
    embedded(store, script).run_batch(mine)
    assert store.batch(other).completed == 0


def test_two_workers_share_a_batch(store: JobStore, script: Script) -> None:
    batch_id = store.submit(160)
    script.per_turn = 1
    both_hold_some = threading.Event()
    ends: list[BatchState] = []

    def holds(_prompt: str) -> bool:
        holders = {chunk.worker_id for chunk in store.chunks(batch_id)} - {None}
        if len(holders) == 2:
            both_hold_some.set()
        return not both_hold_some.is_set()

    script.holds = holds

    def work() -> None:
        with connect_database(store.settings.resolved_database_url) as database:
            worker = EmbeddedWorker(store.settings, database, MODEL, spawn=script.spawn)
            ends.append(worker.run_batch(batch_id).state)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ends == [BatchState.COMPLETED] * 2
    assert store.texts(batch_id) == expected_texts(160)
    assert len(script.answered) == 160
    with store.database.read() as connection:
        makers = connection.execute(text("SELECT count(DISTINCT worker_id) FROM results"))
        assert makers.scalar_one() == 2


def test_chunks_of_a_killed_run_are_taken_at_once(store: JobStore, script: Script) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    name = f"{socket.gethostname()}-{gone.pid}-0123abcd"
    assert claim_chunk(store.database, store.chunks(batch_id)[0].id, name, ttl_s=3600)
    assert embedded(store, script).run_batch(batch_id).state is BatchState.COMPLETED
    assert store.chunks(batch_id)[0].crashes == 0


def test_a_cancelled_batch_of_a_killed_run_needs_no_engine(store: JobStore, script: Script) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    name = f"{socket.gethostname()}-{gone.pid}-0123abcd"
    assert claim_chunk(store.database, store.chunks(batch_id)[0].id, name, ttl_s=3600)
    assert cancel_batch(store.database, batch_id).state is BatchState.CANCELLING
    assert embedded(store, script).run_batch(batch_id).state is BatchState.CANCELLED
    assert script.engines == []


def test_chunks_of_a_living_worker_are_not_taken(store: JobStore, script: Script) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)
    name = f"{socket.gethostname()}-{os.getpid()}-0123abcd"
    assert claim_chunk(store.database, store.chunks(batch_id)[0].id, name, ttl_s=3600)
    batch = embedded(store, script).run_batch(batch_id, should_stop=Later(10))
    assert batch.completed == 0
    assert store.chunks(batch_id)[0].state is ChunkState.LEASED


def test_a_worker_id_tells_its_process() -> None:
    assert maker_of(new_worker_id()) == (socket.gethostname(), os.getpid())
    assert maker_of("somebody") == ("", None)


def test_serves_whatever_is_submitted_until_told_to_stop(store: JobStore, script: Script) -> None:
    ids: list[str] = []

    def should_stop() -> bool:
        if len(ids) < 3 and all(store.batch(batch_id).is_terminal for batch_id in ids):
            ids.append(store.submit(20))
        return len(ids) == 3 and store.batch(ids[-1]).is_terminal

    assert embedded(store, script).run_forever(should_stop) == 0
    assert len(script.engines) == 1
    assert live_workers(store.database) == []


def test_a_worker_in_service_is_registered_with_its_model(store: JobStore, script: Script) -> None:
    service = WorkerService(store.settings, MODEL, spawn=script.spawn)
    service.start()
    try:
        wait_for(lambda: len(live_workers(store.database, MODEL)) == 1)
        (worker,) = live_workers(store.database, MODEL)
        assert maker_of(worker.id) == (worker.host, worker.pid)
        assert find_model(store.database, MODEL.name).key == MODEL
    finally:
        service.ask_to_stop()
        assert service.join(20)
    assert live_workers(store.database, MODEL) == []


def test_a_model_that_cannot_be_loaded_ends_the_worker_with_its_sentence(
    store: JobStore, script: Script
) -> None:
    batch_id = store.submit(8)
    script.load_error = UnsupportedModel("the architecture Foo is not supported")
    with pytest.raises(UnsupportedModel, match="Foo"):
        embedded(store, script).run_forever(lambda: False)
    assert store.chunks(batch_id)[0].attempts == 0


def test_announced_chunks_are_not_piled_up_in_a_busy_worker(
    store: JobStore, script: Script
) -> None:
    """The Celery task blocks while its worker has enough, so that idle workers get the rest."""
    script.holds = lambda _: True
    batch_id = store.submit(8 * CHUNK_REQUESTS)
    elsewhere = InProcessDoorbell()  # where this worker's own dispatcher rings
    service = WorkerService(store.settings, MODEL, doorbell=elsewhere, spawn=script.spawn)
    service.start()
    handed: list[int] = []

    def hand_over() -> None:
        for chunk in store.chunks(batch_id):
            service.take(Ring(chunk_id=chunk.id, batch_id=batch_id, model=MODEL, n=1))
            handed.append(chunk.id)

    thread = threading.Thread(target=hand_over)
    try:
        wait_for(lambda: bool(script.engines) and script.engines[0].most_at_once >= 8)
        thread.start()
        wait_for(lambda: bool(handed))
        assert len(handed) < 8
    finally:
        service.ask_to_stop()
        assert service.join(20)
        thread.join(5)
    assert not thread.is_alive()
