"""A chunk has one holder at a time, and the database's clock decides until when."""

from __future__ import annotations

from functools import partial

import pytest

from models.database import Database
from models.errors import DatabaseUnavailable, LeaseLost
from models.model_key import ModelKey, Weights
from models.states import AttemptOutcome, BatchState, ChunkState
from models.store.batches import cancel_batch, get_batch, list_chunks
from models.store.commit import commit_outcomes
from models.store.leases import (
    FIRST_BACK_OFF_S,
    MAX_BACK_OFF_S,
    back_off_s,
    claim_chunk,
    claim_next,
    missing_requests,
    release_lease,
    release_unknown,
    renew_lease,
)
from models.store.results import stream_records
from models.store.views import Lease, Worker
from models.store.workers import register_worker
from tests.store.builders import (
    MODEL,
    TTL_S,
    answers,
    at_once,
    attempts_of,
    check_counters,
    chunk_of,
    claim,
    claim_expired,
    end_back_offs,
    end_leases,
    finish,
    lose_a_reply,
    submit,
    work_off,
)


def test_a_claim_takes_the_chunk_and_counts_epoch_and_attempt(database: Database) -> None:
    batch = submit(database, 8)
    register_worker(database, Worker(id="w1", model=MODEL, host="h", pid=1, artifact="sha"))
    lease = claim(database, "w1")
    assert (lease.batch_id, lease.epoch, lease.attempt, lease.n_requests) == (batch.id, 1, 1, 8)
    assert (lease.worker_id, lease.model, lease.artifact) == ("w1", MODEL, "sha")
    chunk = chunk_of(database, lease)
    assert (chunk.state, chunk.epoch, chunk.worker_id) == (ChunkState.LEASED, 1, "w1")
    assert claim_next(database, MODEL, "w2", ttl_s=TTL_S) is None
    assert claim_chunk(database, lease.chunk_id, "w2", ttl_s=TTL_S) is None
    assert [row["outcome"] for row in attempts_of(database, lease)] == [None]


def test_chunks_are_claimed_by_priority_then_age_then_number(database: Database) -> None:
    old = submit(database, 16)
    urgent = submit(database, 16, priority=5)
    young = submit(database, 8)
    order = [claim(database) for _ in range(5)]
    assert [lease.batch_id for lease in order] == [urgent.id] * 2 + [old.id] * 2 + [young.id]
    numbers = [chunk_of(database, lease).number for lease in order]
    assert numbers == [0, 1, 0, 1, 0]


def test_only_the_named_batch_and_model_are_claimed(database: Database) -> None:
    batch, other = submit(database, 8), submit(database, 8, priority=1)
    for model in (ModelKey("demo", Weights.INT4), ModelKey("other", Weights.INT8)):
        assert claim_next(database, model, "w1", ttl_s=TTL_S) is None
        chunk_id = list_chunks(database, batch.id)[0].id
        assert claim_chunk(database, chunk_id, "w1", ttl_s=TTL_S, model=model) is None
    lease = claim_next(database, MODEL, "w1", ttl_s=TTL_S, only_batch=batch.id)
    assert lease is not None and lease.batch_id == batch.id
    (chunk,) = list_chunks(database, other.id)
    assert claim_chunk(database, chunk.id, "w1", ttl_s=TTL_S, only_batch=batch.id) is None
    assert claim_chunk(database, chunk.id, "w1", ttl_s=TTL_S, only_batch=other.id) is not None


def test_no_chunk_is_claimed_twice_in_a_race(database: Database) -> None:
    submit(database, 64)

    def race(worker_id: str) -> list[Lease]:
        leases = []
        while (lease := claim_next(database, MODEL, worker_id, ttl_s=TTL_S)) is not None:
            leases.append(lease)
        return leases

    won = at_once([partial(race, f"w{n}") for n in range(6)])
    claimed = [lease.chunk_id for leases in won for lease in leases]
    assert len(claimed) == len(set(claimed)) == 8


def test_one_of_many_claims_on_a_chunk_wins_each_epoch(database: Database) -> None:
    batch = submit(database, 8)
    (chunk,) = list_chunks(database, batch.id)
    for epoch in (1, 2, 3):
        won = at_once([lambda: claim_chunk(database, chunk.id, "w", ttl_s=TTL_S)] * 6)
        leases = [lease for lease in won if lease is not None]
        assert [lease.epoch for lease in leases] == [epoch]
        assert release_lease(database, leases[0], crashed=False, reason="drained")


def test_a_lease_that_ran_out_is_taken_over_and_the_chunk_charged(database: Database) -> None:
    submit(database, 8)
    old = claim_expired(database, "w1")
    new = claim(database, "w2")
    assert (new.chunk_id, new.epoch, new.attempt) == (old.chunk_id, 2, 2)
    assert chunk_of(database, new).crashes == 1
    first, second = attempts_of(database, new)
    assert (first["outcome"], second["outcome"]) == (AttemptOutcome.LOST, None)
    assert first["ended_at"] is not None and "w1" in first["error"]


def test_a_claim_that_is_one_crash_too_many_quarantines(database: Database) -> None:
    batch = submit(database, 16)
    first = claim(database)
    commit_outcomes(database, first, answers(missing_requests(database, first)[:3]), ttl_s=TTL_S)
    for _ in range(2):
        end_leases(database)
        assert claim_chunk(database, first.chunk_id, "w", ttl_s=TTL_S, max_crashes=3) is not None
    end_leases(database)
    assert claim_chunk(database, first.chunk_id, "w", ttl_s=TTL_S, max_crashes=3) is None
    chunk = chunk_of(database, first)
    assert (chunk.state, chunk.crashes, chunk.worker_id) == (ChunkState.QUARANTINED, 3, None)
    assert [row["outcome"] for row in attempts_of(database, first)] == [AttemptOutcome.LOST] * 3
    errors = [record.refusal for record in stream_records(database, batch.id) if record.refusal]
    assert [error.code for error in errors] == ["worker_lost"] * 5
    assert errors[0].http_status is None
    check_counters(database, batch.id)


def test_claim_next_goes_on_after_a_chunk_that_it_quarantined(database: Database) -> None:
    submit(database, 16)
    first = claim_expired(database)
    lease = claim_next(database, MODEL, "w2", ttl_s=TTL_S, max_crashes=1)
    assert lease is not None and lease.chunk_id != first.chunk_id
    assert chunk_of(database, first).state is ChunkState.QUARANTINED


def test_renewing_keeps_the_lease_and_tells_of_a_cancelled_batch(database: Database) -> None:
    batch = submit(database, 8)
    lease = claim(database, ttl_s=5)
    assert not renew_lease(database, lease, TTL_S).cancelled
    until = chunk_of(database, lease).lease_until
    assert until is not None and until > lease.lease_until + 30
    cancel_batch(database, batch.id)
    assert renew_lease(database, lease, TTL_S).cancelled


def test_a_lease_that_was_taken_over_cannot_be_renewed_or_released(database: Database) -> None:
    submit(database, 8)
    old = claim_expired(database, "w1")
    new = claim(database, "w2")
    with pytest.raises(LeaseLost, match="w1"):
        renew_lease(database, old, TTL_S)
    assert not release_lease(database, old, crashed=True, reason="late")
    chunk = chunk_of(database, new)
    assert (chunk.state, chunk.worker_id, chunk.crashes) == (ChunkState.LEASED, "w2", 1)


def test_an_expired_lease_that_nobody_took_can_still_be_renewed(database: Database) -> None:
    submit(database, 8)
    lease = claim_expired(database)
    renew_lease(database, lease, TTL_S)
    assert claim_next(database, MODEL, "w2", ttl_s=TTL_S) is None


def test_an_interrupted_lease_costs_no_attempt_and_no_time(database: Database) -> None:
    submit(database, 8)
    lease = claim(database)
    assert release_lease(database, lease, crashed=False, reason="drained")
    chunk = chunk_of(database, lease)
    assert (chunk.state, chunk.attempts, chunk.crashes) == (ChunkState.PENDING, 0, 0)
    (attempt,) = attempts_of(database, lease)
    assert (attempt["outcome"], attempt["error"]) == (AttemptOutcome.RELEASED, "drained")
    again = claim(database)
    assert (again.epoch, again.attempt) == (2, 1)


def test_what_a_worker_does_not_know_of_is_given_back_uncharged(database: Database) -> None:
    submit(database, 32)
    known, unknown, stale = claim(database, "w1"), claim(database, "w1"), claim(database, "w1")
    other = claim(database, "w2")
    books = {(known.chunk_id, known.epoch), (stale.chunk_id, stale.epoch - 1)}
    found = release_unknown(database, "w1", books, reason="no answer")
    assert found == [unknown.chunk_id, stale.chunk_id]
    for lease in (unknown, stale):
        chunk = chunk_of(database, lease)
        assert (chunk.state, chunk.attempts, chunk.crashes) == (ChunkState.PENDING, 0, 0)
        (attempt,) = attempts_of(database, lease)
        assert (attempt["outcome"], attempt["error"]) == (AttemptOutcome.RELEASED, "no answer")
    for lease in (known, other):
        renew_lease(database, lease, TTL_S)
    assert release_unknown(database, "w1", books, reason="no answer") == []


def test_a_chunk_that_is_done_is_not_given_back(database: Database) -> None:
    submit(database, 8)
    lease = claim(database, "w1")
    finish(database, lease)
    assert release_unknown(database, "w1", set(), reason="no answer") == []
    assert chunk_of(database, lease).state is ChunkState.DONE


def test_an_unknown_lease_of_a_cancelled_batch_is_cancelled(database: Database) -> None:
    batch = submit(database, 8)
    lease = claim(database, "w1")
    cancel_batch(database, batch.id)
    assert release_unknown(database, "w1", set(), reason="no answer") == [lease.chunk_id]
    assert chunk_of(database, lease).state is ChunkState.CANCELLED


def test_a_claim_whose_answer_was_lost_is_given_back(postgres_database: Database) -> None:
    submit(postgres_database, 8)
    broken = lose_a_reply(postgres_database)
    with pytest.raises(DatabaseUnavailable):
        claim(postgres_database, "w1")
    assert broken
    assert claim_next(postgres_database, MODEL, "w2", ttl_s=TTL_S) is None
    assert len(release_unknown(postgres_database, "w1", set(), reason="no answer")) == 1
    assert claim(postgres_database, "w2").attempt == 1


def test_a_crashed_lease_makes_the_chunk_wait(database: Database) -> None:
    submit(database, 8)
    lease = claim(database)
    assert release_lease(database, lease, crashed=True, reason="segmentation fault")
    chunk = chunk_of(database, lease)
    assert (chunk.state, chunk.attempts, chunk.crashes) == (ChunkState.PENDING, 1, 1)
    (attempt,) = attempts_of(database, lease)
    wait_s = chunk.not_before - attempt["ended_at"]
    assert wait_s == pytest.approx(FIRST_BACK_OFF_S, rel=0.3)
    assert claim_next(database, MODEL, "w2", ttl_s=TTL_S) is None
    end_back_offs(database)
    assert claim(database).attempt == 2


def test_the_back_off_doubles_up_to_its_limit() -> None:
    for crashes, wait_s in [(1, FIRST_BACK_OFF_S), (3, 4 * FIRST_BACK_OFF_S), (20, MAX_BACK_OFF_S)]:
        assert all(0.8 * wait_s <= back_off_s(crashes) <= 1.2 * wait_s for _ in range(50))


def test_the_last_allowed_crash_gives_the_chunk_up(database: Database) -> None:
    batch = submit(database, 16)
    for crash in range(3):
        lease = claim(database)
        if crash == 0:
            commit_outcomes(
                database, lease, answers(missing_requests(database, lease)[:2]), ttl_s=TTL_S
            )
        release_lease(database, lease, crashed=True, reason="out of memory", max_crashes=3)
        end_back_offs(database)
    assert chunk_of(database, lease).state is ChunkState.QUARANTINED
    assert work_off(database) == 1
    errors = [record.refusal for record in stream_records(database, batch.id) if record.refusal]
    assert [error.code for error in errors] == ["worker_lost"] * 6
    assert "out of memory" in errors[0].message
    assert get_batch(database, batch.id).remaining == 0
    check_counters(database, batch.id)


def test_releasing_a_chunk_of_a_cancelled_batch_cancels_it(database: Database) -> None:
    batch = submit(database, 8)
    lease = claim(database)
    cancel_batch(database, batch.id)
    assert release_lease(database, lease, crashed=False, reason="cancelled")
    assert chunk_of(database, lease).state is ChunkState.CANCELLED


def test_only_requests_without_a_result_are_missing(database: Database) -> None:
    submit(database, 8)
    first = claim(database)
    done, left = missing_requests(database, first)[:3], missing_requests(database, first)[3:]
    commit_outcomes(database, first, answers(done), ttl_s=TTL_S)
    release_lease(database, first, crashed=False, reason="drained")
    second = claim(database)
    assert missing_requests(database, second) == left
    assert finish(database, second).chunk_done


def test_a_batch_that_is_over_is_not_claimed(database: Database) -> None:
    cancelled = submit(database, 8)
    overdue = submit(database, 8, completion_window_s=0.0)
    cancel_batch(database, cancelled.id)
    assert claim_next(database, MODEL, "w", ttl_s=TTL_S) is None
    for batch in (cancelled, overdue):
        (chunk,) = list_chunks(database, batch.id)
        assert claim_chunk(database, chunk.id, "w", ttl_s=TTL_S) is None
    assert get_batch(database, cancelled.id).state is BatchState.CANCELLED
