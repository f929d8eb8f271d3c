"""A request that kills its whole worker costs itself alone, and never another request."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from models.database import Database
from models.errors import LeaseLost
from models.states import AttemptOutcome, BatchState, ChunkState
from models.store.batches import cancel_batch, finalize_batch, get_batch
from models.store.commit_log import follow_results
from models.store.leases import claim_next, missing_requests, note_running, release_lease
from models.store.results import stream_records
from models.store.sweep import sweep
from models.store.views import Lease
from models.tables import chunks
from tests.store.builders import (
    MODEL,
    TTL_S,
    attempts_of,
    check_counters,
    chunk_of,
    claim,
    commit,
    end_leases,
    finish,
    rows,
    submit,
)

MAX_CRASHES = 3
KILLER = 5


def by_sweep(database: Database) -> None:
    sweep(database, dispatch_timeout_s=60, max_crashes=MAX_CRASHES)


def by_claim(_: Database) -> None:
    """The next claim finds the lease that ran out."""


ENDINGS = pytest.mark.parametrize("end", [by_sweep, by_claim])
End = Callable[[Database], None]


def claim_last_chance(database: Database) -> Lease:
    """A lease on a chunk that one more lost lease would give up."""
    for _ in range(MAX_CRASHES - 1):
        claim(database)
        end_leases(database)
    return claim(database)


def work_until_killed(database: Database, lease: Lease) -> list[int]:
    """A worker's course on a last chance, which one request ends; those that did not start."""
    left = [request.idx for request in missing_requests(database, lease)]
    while left:
        idx = left.pop(0)
        note_running(database, lease, idx)
        if idx == KILLER:
            end_leases(database)
            break
        commit(database, lease, [idx])
    return left


def errors_of(database: Database, batch_id: str) -> dict[int, str]:
    return {
        record.idx: record.refusal.code
        for record in stream_records(database, batch_id)
        if record.refusal is not None
    }


@ENDINGS
def test_of_eight_requests_the_one_that_kills_every_worker_fails_alone(
    database: Database, end: End
) -> None:
    batch = submit(database, 8)
    left = work_until_killed(database, claim_last_chance(database))
    end(database)
    lease = claim_next(database, MODEL, "w2", ttl_s=TTL_S, max_crashes=MAX_CRASHES)
    assert lease is not None
    assert [request.idx for request in missing_requests(database, lease)] == left != []
    assert chunk_of(database, lease).crashes == MAX_CRASHES - 1
    assert work_until_killed(database, lease) == []
    assert chunk_of(database, lease).state is ChunkState.DONE
    assert finalize_batch(database, batch.id).state is BatchState.COMPLETED
    assert errors_of(database, batch.id) == {KILLER: "worker_lost"}
    final = get_batch(database, batch.id)
    assert (final.completed, final.failed) == (7, 1)
    check_counters(database, batch.id)
    assert sorted(record.idx for _, record in follow_results(database, batch.id)) == list(range(8))
    outcomes = [row["outcome"] for row in attempts_of(database, lease)]
    assert outcomes == [AttemptOutcome.LOST] * MAX_CRASHES + [AttemptOutcome.DONE]


@ENDINGS
def test_with_the_result_there_nobody_is_blamed_and_nothing_charged(
    database: Database, end: End
) -> None:
    batch = submit(database, 8)
    lease = claim_last_chance(database)
    note_running(database, lease, 2)
    commit(database, lease, [2])
    end_leases(database)
    end(database)
    again = claim_next(database, MODEL, "w2", ttl_s=TTL_S, max_crashes=MAX_CRASHES)
    assert again is not None
    assert chunk_of(database, again).crashes == MAX_CRASHES - 1
    finish(database, again)
    assert errors_of(database, batch.id) == {}
    check_counters(database, batch.id)


@ENDINGS
def test_the_last_request_of_a_chunk_may_be_the_one_to_blame(database: Database, end: End) -> None:
    """Nothing is left to run then, so that nobody has to come for the chunk."""
    batch = submit(database, 8)
    lease = claim_last_chance(database)
    commit(database, lease, [idx for idx in range(8) if idx != KILLER])
    note_running(database, lease, KILLER)
    end_leases(database)
    end(database)
    assert claim_next(database, MODEL, "w2", ttl_s=TTL_S, max_crashes=MAX_CRASHES) is None
    by_sweep(database)
    assert chunk_of(database, lease).state is ChunkState.DONE
    assert get_batch(database, batch.id).state is BatchState.COMPLETED
    assert errors_of(database, batch.id) == {KILLER: "worker_lost"}
    assert attempts_of(database, lease)[-1]["outcome"] == AttemptOutcome.LOST


@ENDINGS
def test_a_lease_that_noted_nothing_gives_the_chunk_up(database: Database, end: End) -> None:
    """The note of an earlier lease does not count."""
    batch = submit(database, 8)
    first = claim_last_chance(database)
    note_running(database, first, 3)
    release_lease(database, first, crashed=False, reason="drained")
    assert claim(database).epoch == first.epoch + 1
    end_leases(database)
    end(database)
    assert claim_next(database, MODEL, "w2", ttl_s=TTL_S, max_crashes=MAX_CRASHES) is None
    assert chunk_of(database, first).state is ChunkState.QUARANTINED
    assert set(errors_of(database, batch.id).values()) == {"worker_lost"}
    assert len(errors_of(database, batch.id)) == 8


def test_a_worker_that_lost_its_lease_notes_nothing(database: Database) -> None:
    submit(database, 8)
    old = claim(database)
    end_leases(database)
    new = claim(database, "w2")
    with pytest.raises(LeaseLost, match="nothing was written"):
        note_running(database, old, 1)
    assert rows(database, chunks, id=new.chunk_id)[0]["running_idx"] is None


@pytest.mark.parametrize("how", ["done", "released", "claimed over"])
def test_a_note_ends_with_its_lease(database: Database, how: str) -> None:
    submit(database, 8)
    lease = claim(database)
    note_running(database, lease, 1)
    if how == "done":
        finish(database, lease)
    elif how == "released":
        release_lease(database, lease, crashed=True, reason="crashed")
    else:
        end_leases(database)
        claim(database, "w2")
    assert chunk_of(database, lease).running_idx is None


def test_a_lost_lease_of_a_cancelled_batch_still_cancels_its_chunk(database: Database) -> None:
    batch = submit(database, 8)
    lease = claim_last_chance(database)
    note_running(database, lease, 1)
    cancel_batch(database, batch.id)
    end_leases(database)
    by_sweep(database)
    assert chunk_of(database, lease).state is ChunkState.CANCELLED
    final = get_batch(database, batch.id)
    assert (final.state, final.failed) == (BatchState.CANCELLED, 8)
    check_counters(database, batch.id)
