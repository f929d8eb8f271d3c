"""Cancelling, expiring, finalizing and retrying: a batch ends once, with every request final."""

from __future__ import annotations

import pytest

from models.database import Database
from models.errors import InputError, LeaseLost, NotFoundError, StateError
from models.generation import Refusal
from models.states import AttemptOutcome, BatchState, ChunkState
from models.store.batches import cancel_batch, finalize_batch, get_batch, list_batches, list_chunks
from models.store.commit import commit_outcomes
from models.store.dispatch import dispatch_chunks
from models.store.leases import missing_requests, release_lease
from models.store.results import stream_records
from models.store.retry import retry_batch
from models.store.submit import submit_batch
from models.store.sweep import sweep
from models.store.transitions import move_batches
from models.store.views import Batch, Outcome
from models.tables import batches, results
from models.wire.lines import Line
from tests.store.builders import (
    TTL_S,
    accepted,
    answer,
    answers,
    at_once,
    attempts_of,
    check_counters,
    chunk_of,
    claim,
    end_leases,
    finish,
    refused,
    rows,
    submission,
    submit,
    work_off,
)


def clean_up(database: Database) -> tuple[str, ...]:
    return sweep(database, dispatch_timeout_s=120, max_crashes=3).closed_batches


def error_codes(database: Database, batch: Batch) -> list[str | None]:
    records = stream_records(database, batch.id)
    return [record.refusal.code if record.refusal else None for record in records]


def check_ended(database: Database, batch: Batch, state: BatchState) -> None:
    """The batch ended like that, every request has its row and every chunk its end."""
    final = get_batch(database, batch.id)
    assert (final.state, final.is_terminal, final.remaining) == (state, True, 0)
    assert len(rows(database, results, batch_id=batch.id)) == batch.total
    check_counters(database, batch.id)
    states = {chunk.state for chunk in list_chunks(database, batch.id)}
    assert states <= {ChunkState.DONE, ChunkState.QUARANTINED, ChunkState.CANCELLED}


def test_batches_are_listed_newest_first_and_paged(database: Database) -> None:
    ids = [submit(database, 1).id for _ in range(5)][::-1]
    submit(database, 1, tenant_id="other")
    assert [batch.id for batch in list_batches(database)] == ids
    assert [batch.id for batch in list_batches(database, limit=2)] == ids[:2]
    assert [batch.id for batch in list_batches(database, limit=2, after=ids[1])] == ids[2:4]
    with pytest.raises(NotFoundError):
        list_batches(database, after="batch_unknown")


@pytest.mark.parametrize("action", [get_batch, cancel_batch, finalize_batch, retry_batch])
def test_an_unknown_batch_is_not_found(database: Database, action: object) -> None:
    assert callable(action)
    with pytest.raises(NotFoundError, match="batch_unknown"):
        action(database, "batch_unknown")


def test_a_batch_that_nobody_works_on_is_cancelled_at_once(database: Database) -> None:
    batch = submit(database, 20)
    dispatch_chunks(database, window_per_worker=1)
    assert cancel_batch(database, batch.id).state is BatchState.CANCELLED
    assert error_codes(database, batch) == ["batch_cancelled"] * 20
    check_ended(database, batch, BatchState.CANCELLED)


def test_a_batch_in_work_is_cancelled_when_the_last_lease_is_back(database: Database) -> None:
    batch = submit(database, 24)
    done, working = claim(database), claim(database)
    finish(database, done)
    assert cancel_batch(database, batch.id).state is BatchState.CANCELLING
    assert clean_up(database) == ()
    commit_outcomes(database, working, answers(missing_requests(database, working)[:3]), ttl_s=1)
    release_lease(database, working, crashed=False, reason="cancelled")
    assert finalize_batch(database, batch.id).state is BatchState.CANCELLED
    assert get_batch(database, batch.id).completed == 11
    check_ended(database, batch, BatchState.CANCELLED)


def test_a_batch_whose_holder_died_is_cancelled_by_the_sweeper(database: Database) -> None:
    batch = submit(database, 8)
    lease = claim(database)
    cancel_batch(database, batch.id)
    end_leases(database)
    assert clean_up(database) == (batch.id,)
    assert chunk_of(database, lease).state is ChunkState.CANCELLED
    check_ended(database, batch, BatchState.CANCELLED)


def test_a_cancellation_that_stopped_half_way_is_finished_by_the_sweeper(
    database: Database,
) -> None:
    batch = submit(database, 20)
    with database.begin() as connection:
        connection.execute(move_batches(BatchState.CANCELLING).where(batches.c.id == batch.id))
    assert clean_up(database) == (batch.id,)
    check_ended(database, batch, BatchState.CANCELLED)


def test_cancelling_twice_is_cancelling_once(database: Database) -> None:
    batch = submit(database, 8)
    lease = claim(database)
    first = cancel_batch(database, batch.id)
    assert cancel_batch(database, batch.id) == first
    release_lease(database, lease, crashed=False, reason="cancelled")
    final = cancel_batch(database, batch.id)
    assert final.state is BatchState.CANCELLED
    assert cancel_batch(database, batch.id) == final


def test_a_batch_that_ended_cannot_be_cancelled(database: Database) -> None:
    completed = submit(database, 8)
    work_off(database)
    finalize_batch(database, completed.id)
    failed = submit_batch(database, submission(), [refused(0, "invalid_json_line")]).batch
    for batch in (completed, failed):
        with pytest.raises(StateError, match="cannot become cancelling"):
            cancel_batch(database, batch.id)


def test_an_overdue_batch_keeps_what_is_done_and_fences_its_holders(database: Database) -> None:
    batch = submit(database, 24, completion_window_s=3600)
    done, working = claim(database), claim(database)
    finish(database, done)
    with database.begin() as connection:
        connection.execute(batches.update().values(expires_at=batches.c.created_at))
    assert clean_up(database) == (batch.id,)
    with pytest.raises(LeaseLost):
        commit_outcomes(database, working, [answer(8)], ttl_s=TTL_S)
    assert [row["outcome"] for row in attempts_of(database, working)] == [AttemptOutcome.RELEASED]
    codes = error_codes(database, batch)
    assert (codes.count(None), codes.count("batch_expired")) == (8, 16)
    check_ended(database, batch, BatchState.EXPIRED)
    assert clean_up(database) == ()


def test_a_batch_that_was_finished_in_time_is_completed_not_expired(database: Database) -> None:
    batch = submit(database, 8, completion_window_s=3600)
    finish(database, claim(database))
    with database.begin() as connection:
        connection.execute(batches.update().values(expires_at=batches.c.created_at))
    assert clean_up(database) == (batch.id,)
    check_ended(database, batch, BatchState.COMPLETED)


def test_finalizing_waits_for_the_last_request(database: Database) -> None:
    batch = submit(database, 16)
    finish(database, claim(database))
    assert finalize_batch(database, batch.id).state is BatchState.IN_PROGRESS
    finish(database, claim(database))
    final = finalize_batch(database, batch.id)
    assert final.state is BatchState.COMPLETED
    assert finalize_batch(database, batch.id) == final


def test_finalizing_recounts(database: Database) -> None:
    batch = submit(database, 8)
    finish(database, claim(database))
    with database.begin() as connection:
        connection.execute(batches.update().values(n_completed=1, n_failed=5, output_tokens=0))
    final = finalize_batch(database, batch.id)
    assert (final.completed, final.failed, final.output_tokens) == (8, 0, 16)


def test_a_batch_left_finalizing_is_completed_by_the_sweeper(database: Database) -> None:
    batch = submit(database, 8)
    finish(database, claim(database))
    with database.begin() as connection:
        connection.execute(move_batches(BatchState.FINALIZING).where(batches.c.id == batch.id))
    assert clean_up(database) == (batch.id,)
    check_ended(database, batch, BatchState.COMPLETED)


def test_finalizing_and_cancelling_at_once_end_in_one_state(database: Database) -> None:
    for _ in range(5):
        batch = submit(database, 8)
        finish(database, claim(database))

        def cancel(batch_id: str = batch.id) -> None:
            try:
                cancel_batch(database, batch_id)
            except StateError:
                return  # finalizing was faster

        def finalize(batch_id: str = batch.id) -> None:
            finalize_batch(database, batch_id)

        at_once([cancel, finalize, finalize])
        final = get_batch(database, batch.id)
        assert final.state in {BatchState.COMPLETED, BatchState.CANCELLED}
        check_ended(database, batch, final.state)
        assert final.completed == 8


def test_retrying_runs_the_failed_requests_again(database: Database) -> None:
    lines: list[Line] = [accepted(0), refused(1), *(accepted(n) for n in range(2, 9))]
    old = submit_batch(database, submission(metadata={"team": "nlp"}, priority=2), lines).batch
    lease = claim(database)
    refusal = Refusal(code="context_length_exceeded", message="too long")
    failing = {3, 6}
    outcomes = [
        Outcome(idx=request.idx, refusal=refusal) if request.idx in failing else answer(request.idx)
        for request in missing_requests(database, lease)
    ]
    commit_outcomes(database, lease, outcomes, ttl_s=TTL_S)
    finalize_batch(database, old.id)
    new = retry_batch(database, old.id)
    assert (new.state, new.total, new.failed) == (BatchState.IN_PROGRESS, 2, 0)
    assert new.metadata == {"team": "nlp", "retry_of": old.id}
    assert (new.priority, new.file_id, new.id == old.id) == (2, old.file_id, False)
    queued = missing_requests(database, claim(database))
    assert [(request.idx, request.custom_id) for request in queued] == [(0, "r3"), (1, "r6")]
    assert [request.prompt for request in queued] == [accepted(3).prompt, accepted(6).prompt]
    assert get_batch(database, old.id).failed == 3


def test_there_must_be_something_to_retry(database: Database) -> None:
    batch = submit(database, 8)
    with pytest.raises(InputError, match="in_progress"):
        retry_batch(database, batch.id)
    work_off(database)
    finalize_batch(database, batch.id)
    with pytest.raises(InputError, match="no request that failed and could run again"):
        retry_batch(database, batch.id)
    assert len(list_batches(database)) == 1


def test_only_what_failed_for_a_reason_is_retried(database: Database) -> None:
    batch = submit(database, 6)
    lease = claim(database)
    codes = ("context_length_exceeded", "request_timeout", "request_timeout", "worker_lost")
    refusals = [Refusal(code=code, message="no") for code in codes]
    outcomes = [Outcome(idx=idx, refusal=refusal) for idx, refusal in enumerate(refusals)]
    commit_outcomes(database, lease, [*outcomes, answer(4), answer(5)], ttl_s=TTL_S)
    finalize_batch(database, batch.id)
    retried = retry_batch(database, batch.id, error_codes=("request_timeout", "worker_lost"))
    queued = missing_requests(database, claim(database))
    assert {request.custom_id for request in queued} == {"r1", "r2", "r3"}
    assert retried.total == 3
    with pytest.raises(InputError, match="failed for batch_expired and could run again"):
        retry_batch(database, batch.id, error_codes=["batch_expired"])


def test_a_cancelled_batch_can_be_retried(database: Database) -> None:
    batch = submit(database, 20)
    finish(database, claim(database))
    cancel_batch(database, batch.id)
    assert retry_batch(database, batch.id).total == 12
    assert work_off(database) == 2
