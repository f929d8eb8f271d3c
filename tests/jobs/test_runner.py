"""The lease protocol as the holder plays it, with faults at chosen moments."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import text

from models.errors import EngineCrashed, EngineGivenUp, ModelError, UnsupportedModel
from models.model_key import ModelKey, Weights
from models.states import BatchState, ChunkState
from models.store.batches import cancel_batch
from models.store.leases import claim_chunk
from models.store.sweep import sweep
from tests.jobs.conftest import CHUNK_REQUESTS, JobStore, Later, MakeRunner, expected_texts
from tests.jobs.scripted_engine import Script
from worker.jobs import supervisor
from worker.jobs.runner import MAX_LEASES


def never() -> bool:
    return False


def let_back_off_pass(store: JobStore) -> None:
    """As if the time that crashed chunks wait had passed."""
    with store.database.begin() as connection:
        connection.execute(text("UPDATE chunks SET not_before = 0"))


def take_over(store: JobStore, chunk_id: int) -> None:
    """Let another worker have the chunk, as if its lease had run out."""
    with store.database.begin() as connection:
        connection.execute(
            text("UPDATE chunks SET lease_until = 0 WHERE id = :id"), {"id": chunk_id}
        )
    assert claim_chunk(store.database, chunk_id, "worker-b", ttl_s=30) is not None


def test_serves_a_batch_to_its_end(store: JobStore, make_runner: MakeRunner) -> None:
    batch_id = store.submit(30)
    make_runner().serve(until=never)
    assert store.texts(batch_id) == expected_texts(30)
    assert store.batch(batch_id).state is BatchState.COMPLETED
    assert {chunk.state for chunk in store.chunks(batch_id)} == {ChunkState.DONE}


def test_a_refused_request_is_an_error_and_the_others_run(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(10)
    script.refuses = lambda prompt: prompt.endswith("0003")
    make_runner().serve(until=never)
    assert store.errors(batch_id) == {3: "context_length_exceeded"}
    assert len(store.texts(batch_id)) == 9
    assert store.batch(batch_id).failed == 1


def test_claims_ahead_so_that_the_engine_is_never_short_of_requests(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    store.submit(80)
    script.per_turn = 1
    runner = make_runner()
    seen: list[int] = []
    script.on_turn = lambda: seen.append(runner.book.unfinished)
    runner.serve(until=never)
    low_water = store.settings.max_sequences
    fed = seen[: 80 - low_water - CHUNK_REQUESTS]
    assert min(fed) >= low_water


def test_leases_held_at_once_are_bounded(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    store.submit(CHUNK_REQUESTS * (MAX_LEASES + 4))
    script.holds = lambda _: True
    runner = make_runner(max_sequences=1000)
    runner.serve(until=Later(60))
    assert script.engines[0].most_at_once == CHUNK_REQUESTS * MAX_LEASES


def test_finished_requests_wait_for_a_commit_in_bounded_number(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)
    script.per_turn = 1
    script.holds = lambda prompt: prompt.endswith("0000")  # the chunk itself does not end
    runner = make_runner(micro_batch_s=1000)
    seen: list[int] = []
    script.on_turn = lambda: seen.append(runner.book.uncommitted)
    runner.serve(until=lambda: len(script.answered) == CHUNK_REQUESTS - 1)
    assert max(seen) < store.settings.micro_batch_requests
    assert len(store.texts(batch_id)) == CHUNK_REQUESTS - 1


def test_a_finished_request_is_committed_though_its_chunk_goes_on(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(8)
    script.holds = lambda prompt: not prompt.endswith("0000")
    deadline = time.monotonic() + 20
    make_runner(micro_batch_requests=1000).serve(
        until=lambda: store.batch(batch_id).completed == 1 or time.monotonic() > deadline
    )
    assert store.texts(batch_id) == {0: "0000 tpmorp"}


def test_a_lost_lease_writes_nothing_and_is_no_error(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)
    (chunk,) = store.chunks(batch_id)
    turns = Later(0)

    def steal() -> None:
        if turns._left == 0:
            take_over(store, chunk.id)
        turns()

    script.on_turn = steal
    deadline = time.monotonic() + 20
    runner = make_runner(lease_ttl_s=3000, renew_period_s=1000)  # only the commit can find out
    runner.serve(until=lambda: time.monotonic() > deadline)
    assert time.monotonic() < deadline
    assert store.texts(batch_id) == {}
    (chunk,) = store.chunks(batch_id)
    assert (chunk.state, chunk.worker_id) == (ChunkState.LEASED, "worker-b")
    assert chunk.crashes == 1  # of the lease that ran out, not of the one that found it lost


def test_past_its_own_deadline_a_worker_writes_nothing(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)
    runner = make_runner()

    def expire() -> None:
        for held in runner.book.all():
            held.deadline = 0.0  # nobody took the chunk over: only the own clock says so

    script.on_turn = expire
    runner.serve(until=Later(200))
    assert store.texts(batch_id) == {}
    assert script.cancelled == []  # all had finished: there was nothing to take back


def test_renewals_keep_a_slow_chunk(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)
    runner = make_runner(renew_period_s=0.05)
    ends: list[tuple[float, float]] = []  # of the lease, by the database and by the worker

    def holds(_prompt: str) -> bool:
        (chunk,), (held,) = store.chunks(batch_id), runner.book.all()
        ends.append((chunk.lease_until or 0.0, held.deadline))
        return any(now < first + 0.3 for first, now in zip(ends[0], ends[-1], strict=True))

    script.holds = holds
    runner.serve(until=never)
    assert store.texts(batch_id) == expected_texts(CHUNK_REQUESTS)
    assert [chunk.epoch for chunk in store.chunks(batch_id)] == [1]


def test_a_hung_engine_loses_its_leases_and_is_replaced(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)
    script.hangs = True

    def wake_up() -> None:
        script.hangs = len(script.engines) == 1

    script.on_turn = wake_up
    make_runner(stall_timeout_s=0.3).serve(until=lambda: len(script.engines) > 1)
    (chunk,) = store.chunks(batch_id)
    assert (chunk.state, chunk.crashes) == (ChunkState.PENDING, 1)


def test_after_a_crash_only_missing_requests_are_made_again(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(20)
    script.crashes_on = lambda prompt: len(script.engines) == 1 and prompt.endswith("0013")
    runner = make_runner()
    runner.serve(until=never)
    let_back_off_pass(store)
    before = len(script.answered)
    missing = 20 - len(store.texts(batch_id))
    runner.serve(until=never)
    assert store.texts(batch_id) == expected_texts(20)
    assert len(script.answered) - before <= missing
    assert len(set(script.answered)) == 20
    assert len(script.answered) == 20  # what had finished at the crash was saved


def test_a_chunk_that_crashed_before_runs_alone_and_is_not_charged_for_others(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(2 * CHUNK_REQUESTS)
    _, suspect = store.chunks(batch_id)
    with store.database.begin() as connection:
        crashed_once = text("UPDATE chunks SET attempts = 1, crashes = 1 WHERE id = :id")
        connection.execute(crashed_once, {"id": suspect.id})
    script.crashes_on = lambda _: len(script.engines) == 1
    runner = make_runner()
    held: set[int] = set()
    script.on_turn = lambda: held.update(lease.lease.chunk_id for lease in runner.book.all())
    runner.serve(until=lambda: len(script.engines) == 2)
    assert suspect.id in held
    assert [chunk.crashes for chunk in store.chunks(batch_id)] == [1, 1]
    let_back_off_pass(store)
    runner.serve(until=never)
    assert store.texts(batch_id) == expected_texts(2 * CHUNK_REQUESTS)


def test_a_chunk_is_given_up_after_max_crashes(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)
    script.crashes_on = lambda _: True
    make_runner(max_crashes=1).serve(until=never)
    sweep(store.database, dispatch_timeout_s=60, max_crashes=1)
    assert set(store.errors(batch_id).values()) == {"worker_lost"}
    assert [chunk.state for chunk in store.chunks(batch_id)] == [ChunkState.QUARANTINED]
    assert store.batch(batch_id).state is BatchState.COMPLETED


def test_an_engine_that_crashes_too_often_ends_the_worker(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    store.submit(CHUNK_REQUESTS)
    script.crashes_on = lambda _: True
    runner = make_runner(max_crashes=1000)
    with pytest.raises(EngineGivenUp, match="5 times in 10 minutes"):
        while True:
            let_back_off_pass(store)
            runner.serve(until=never)
    assert len(script.engines) == 1 + supervisor.MAX_RESTARTS
    assert not runner.book


def test_a_model_that_does_not_load_charges_nobody(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)
    script.load_error = UnsupportedModel("this architecture is not supported")
    with pytest.raises(ModelError, match="not supported"):
        make_runner()
    (chunk,) = store.chunks(batch_id)
    assert (chunk.attempts, chunk.crashes, chunk.state) == (0, 0, ChunkState.PENDING)


def test_stopping_keeps_what_finished_and_gives_attempts_back(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(32)
    script.per_turn = 1
    make_runner().serve(until=lambda: len(script.answered) >= 3)
    assert len(store.texts(batch_id)) == len(script.answered) >= 3
    for chunk in store.chunks(batch_id):
        assert (chunk.attempts, chunk.crashes) == (0, 0) or chunk.state is ChunkState.DONE
        assert chunk.state in {ChunkState.PENDING, ChunkState.DONE}
    make_runner("worker-b").serve(until=never)
    assert store.texts(batch_id) == expected_texts(32)
    assert len(script.answered) == 32


def test_a_cancelled_batch_stops_and_keeps_what_finished(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(24)
    script.per_turn = 1

    def cancel() -> None:
        if len(script.answered) == 3:
            cancel_batch(store.database, batch_id)

    script.on_turn = cancel
    make_runner().serve(until=never)
    sweep(store.database, dispatch_timeout_s=60, max_crashes=3)
    batch = store.batch(batch_id)
    assert batch.state is BatchState.CANCELLED
    assert batch.completed == len(script.answered)
    assert batch.completed <= 3 + store.settings.micro_batch_requests
    assert set(store.errors(batch_id).values()) == {"batch_cancelled"}


def test_a_chunk_whose_requests_are_all_final_is_closed_without_generating(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)
    make_runner().serve(until=never)
    with store.database.begin() as connection:
        connection.execute(text("UPDATE chunks SET state = 'pending'"))
        connection.execute(text("UPDATE batches SET state = 'in_progress'"))
    make_runner("worker-b").serve(until=never)
    assert len(script.answered) == CHUNK_REQUESTS
    assert store.batch(batch_id).state is BatchState.COMPLETED


def test_a_named_chunk_of_another_model_is_left_alone(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(CHUNK_REQUESTS, model=ModelKey("other", Weights.FP32))
    names = [store.chunks(batch_id)[0].id]
    make_runner().serve(until=never, named=lambda: names.pop() if names else None)
    assert store.chunks(batch_id)[0].state is ChunkState.PENDING
    assert script.answered == []


def test_named_chunks_come_first_and_stale_names_cost_nothing(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(3 * CHUNK_REQUESTS)
    last = store.chunks(batch_id)[2].id
    names = [999_999, last]
    runner = make_runner(max_sequences=1)
    held: list[int] = []
    script.on_turn = lambda: held.extend(lease.lease.chunk_id for lease in runner.book.all())
    runner.serve(until=never, named=lambda: names.pop(0) if names else None)
    assert held[0] == last
    assert store.texts(batch_id) == expected_texts(3 * CHUNK_REQUESTS)


def test_only_the_wanted_batch_is_served(store: JobStore, make_runner: MakeRunner) -> None:
    first, second = store.submit(10), store.submit(10)
    make_runner().serve(until=never, only_batch=second)
    assert store.texts(first) == {}
    assert store.texts(second) == expected_texts(10)


def test_an_engine_that_died_while_idle_is_replaced_before_work(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    runner = make_runner()
    script.engines[0].kill()
    runner.check_idle()
    batch_id = store.submit(CHUNK_REQUESTS)
    runner.serve(until=never)
    assert [chunk.crashes for chunk in store.chunks(batch_id)] == [0]
    assert store.texts(batch_id) == expected_texts(CHUNK_REQUESTS)


def test_an_abandoned_worker_does_not_wait_for_its_model(
    script: Script, make_runner: MakeRunner
) -> None:
    runner = make_runner()
    runner.supervisor.abandon()
    with pytest.raises(EngineCrashed):
        runner.supervisor.restart()
    assert len(script.engines) == 1
