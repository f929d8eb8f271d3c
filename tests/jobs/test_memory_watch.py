"""An engine that outgrows its limit is replaced between chunks, and nobody is charged."""

from __future__ import annotations

import logging

import pytest

from models.errors import EngineCrashed
from models.states import BatchState
from tests.jobs.conftest import CHUNK_REQUESTS, JobStore, MakeRunner, expected_texts
from tests.jobs.scripted_engine import Script, ScriptedEngine
from worker.jobs import memory_watch
from worker.jobs.memory_watch import MemoryWatch
from worker.jobs.supervisor import MAX_RESTARTS

LOADED_BYTES = ScriptedEngine.rss_bytes
LIMIT_BYTES = LOADED_BYTES + 100


@pytest.fixture(autouse=True)
def read_at_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_watch, "_PERIOD_S", 0.0)


def grow(script: Script) -> None:
    """Let every engine outgrow the limit with its first turn."""
    script.on_turn = lambda: setattr(script.engines[-1], "rss_bytes", LIMIT_BYTES + 1)


def messages(caplog: pytest.LogCaptureFixture, part: str) -> list[str]:
    return [record.message for record in caplog.records if part in record.message]


def test_an_engine_that_grew_is_replaced_once_no_lease_is_held(
    store: JobStore,
    script: Script,
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
) -> None:
    chunks = MAX_RESTARTS + 2  # each costs an engine here: more than may crash
    batch_id = store.submit(chunks * CHUNK_REQUESTS)
    grow(script)
    runner = make_runner(max_engine_rss_bytes=LIMIT_BYTES, max_sequences=1)
    held: list[int] = []
    stop = ScriptedEngine.stop

    def stop_and_look(engine: ScriptedEngine) -> None:
        held.append(len(runner.book))
        stop(engine)

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(ScriptedEngine, "stop", stop_and_look)
        runner.serve(until=lambda: False)
        assert held == [0] * chunks
    assert store.texts(batch_id) == expected_texts(chunks * CHUNK_REQUESTS)
    assert store.batch(batch_id).state is BatchState.COMPLETED
    assert len(script.answered) == chunks * CHUNK_REQUESTS
    assert [(c.attempts, c.crashes, c.epoch) for c in store.chunks(batch_id)] == [
        (1, 0, 1)
    ] * chunks
    told = messages(caplog, "restarted between chunks")
    assert len(told) == chunks
    assert str(LIMIT_BYTES + 1) in told[0] and str(LIMIT_BYTES) in told[0]
    assert messages(caplog, "model alone") == []


def test_leases_are_worked_off_before_the_engine_is_replaced(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(4 * CHUNK_REQUESTS)
    script.per_turn = 1
    grow(script)
    make_runner(max_engine_rss_bytes=LIMIT_BYTES).serve(until=lambda: len(script.engines) == 2)
    finished = [chunk for chunk in store.chunks(batch_id) if chunk.state == "done"]
    assert len(script.answered) == len(finished) * CHUNK_REQUESTS > 0
    assert len(finished) < 4


def test_without_a_limit_an_engine_may_grow(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    store.submit(2 * CHUNK_REQUESTS)
    grow(script)
    make_runner(max_sequences=1).serve(until=lambda: False)
    assert len(script.engines) == 1


def test_a_limit_below_the_model_is_told_once_and_work_goes_on(
    store: JobStore,
    script: Script,
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
) -> None:
    batch_id = store.submit(3 * CHUNK_REQUESTS)
    runner = make_runner(max_engine_rss_bytes=LOADED_BYTES - 1, max_sequences=1)
    runner.serve(until=lambda: False)
    assert store.texts(batch_id) == expected_texts(3 * CHUNK_REQUESTS)
    assert len(script.engines) == 4
    (told,) = messages(caplog, "model alone")
    assert str(LOADED_BYTES) in told and str(LOADED_BYTES - 1) in told
    runner.serve(until=lambda: False)  # idle: nothing to restart for
    assert len(script.engines) == 4


def test_an_engine_that_does_not_come_back_is_started_again(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(2 * CHUNK_REQUESTS)
    grow(script)
    runner = make_runner(max_engine_rss_bytes=LIMIT_BYTES, max_sequences=1)
    renew = runner.supervisor.renew

    def fail_once() -> None:
        runner.supervisor.renew = renew  # type: ignore[method-assign]
        raise EngineCrashed("killed while it loaded")

    runner.supervisor.renew = fail_once  # type: ignore[assignment, method-assign]
    runner.serve(until=lambda: False)
    assert store.texts(batch_id) == expected_texts(2 * CHUNK_REQUESTS)
    assert [chunk.crashes for chunk in store.chunks(batch_id)] == [0, 0]


def test_memory_is_read_once_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    now, reads = [100.0], []

    def read() -> int:
        reads.append(now[0])
        return 5

    watch = MemoryWatch(10, read, clock=lambda: now[0])
    watch.worked()
    for _ in range(35):
        assert not watch.is_over()
        now[0] += 0.1
    assert len(reads) == 4
