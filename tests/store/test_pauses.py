"""A paused batch starts nothing more, ends what it has begun, and goes on at once when resumed."""

from __future__ import annotations

import pytest

from models.database import Database
from models.errors import NotFoundError, StateError
from models.states import BatchState, ChunkState
from models.store.batches import cancel_batch, finalize_batch, get_batch, list_chunks
from models.store.creation import NewBatch, create_batch
from models.store.dispatch import dispatch_chunks
from models.store.leases import claim_chunk, claim_next, missing_requests
from models.store.lines import Tally
from models.store.pauses import pause_batch, resume_batch
from models.store.sweep import sweep
from models.store.validation import claim_validation, finish_validation, set_model, store_lines
from models.store.views import Ring
from models.tables import batches, chunks
from tests.store.builders import (
    CHAT,
    MODEL,
    TTL_S,
    accepted,
    claim,
    end_leases,
    finish,
    rows,
    submit,
    work_off,
)
from tests.store.test_files import TENANT, upload


def claim_rung(database: Database, ring: Ring) -> bool:
    """Whether a worker that heard the ring gets the chunk."""
    return claim_chunk(database, ring.chunk_id, "w1", ttl_s=TTL_S, model=MODEL) is not None


def states(database: Database, batch_id: str) -> list[ChunkState]:
    return [chunk.state for chunk in list_chunks(database, batch_id)]


def sweep_once(database: Database, dispatch_timeout_s: float = 120.0) -> int:
    return sweep(database, dispatch_timeout_s=dispatch_timeout_s, max_crashes=3).lost_dispatches


def test_nothing_more_is_claimed_or_dispatched(database: Database) -> None:
    batch = submit(database, 16)
    assert pause_batch(database, batch.id).is_paused
    assert claim_next(database, MODEL, "w1", ttl_s=TTL_S) is None
    assert dispatch_chunks(database, window_per_worker=4) == []
    assert not resume_batch(database, batch.id).is_paused
    assert len(dispatch_chunks(database, window_per_worker=4)) == 2


def test_what_is_leased_runs_to_its_end(database: Database) -> None:
    batch = submit(database, 16)
    lease = claim(database)
    pause_batch(database, batch.id)
    receipt = finish(database, lease)
    assert (receipt.chunk_done, receipt.cancelled) == (True, False)
    assert get_batch(database, batch.id).completed == 8


def test_a_batch_whose_last_chunk_was_leased_is_completed(database: Database) -> None:
    batch = submit(database, 8)
    lease = claim(database)
    pause_batch(database, batch.id)
    finish(database, lease)
    ended = finalize_batch(database, batch.id)
    assert (ended.state, ended.is_paused) == (BatchState.COMPLETED, False)


def test_a_lease_that_ends_while_paused_waits_for_the_resumption(database: Database) -> None:
    batch = submit(database, 8)
    claim(database)
    pause_batch(database, batch.id)
    end_leases(database)
    sweep_once(database)
    assert states(database, batch.id) == [ChunkState.PENDING]
    assert claim_next(database, MODEL, "w1", ttl_s=TTL_S) is None
    resume_batch(database, batch.id)
    assert len(missing_requests(database, claim(database))) == 8


def test_a_rung_chunk_is_refused_and_can_be_claimed_at_once_when_resumed(
    database: Database,
) -> None:
    batch = submit(database, 16)
    rings = dispatch_chunks(database, window_per_worker=4)
    pause_batch(database, batch.id)
    assert not any(claim_rung(database, ring) for ring in rings)
    resume_batch(database, batch.id)
    again = dispatch_chunks(database, window_per_worker=4)  # rings that were heard come again
    assert {ring.chunk_id for ring in again} == {ring.chunk_id for ring in rings}
    assert all(claim_rung(database, ring) for ring in again)


def test_a_ring_that_is_heard_after_the_resumption_counts(database: Database) -> None:
    batch = submit(database, 8)
    (ring,) = dispatch_chunks(database, window_per_worker=4)
    pause_batch(database, batch.id)
    resume_batch(database, batch.id)
    assert claim_rung(database, ring)


def test_a_paused_batch_takes_no_place_in_the_window(database: Database) -> None:
    paused = submit(database, 16)
    dispatch_chunks(database, window_per_worker=2)
    other = submit(database, 16)
    assert dispatch_chunks(database, window_per_worker=2) == []
    pause_batch(database, paused.id)
    rings = dispatch_chunks(database, window_per_worker=2)
    assert {ring.batch_id for ring in rings} == {other.id}


def test_the_sweeper_leaves_a_paused_batch_alone(database: Database) -> None:
    batch = submit(database, 16)
    dispatch_chunks(database, window_per_worker=4)
    pause_batch(database, batch.id)
    before = rows(database, chunks, batch_id=batch.id), rows(database, batches, id=batch.id)
    for _ in range(3):
        assert sweep_once(database, dispatch_timeout_s=0.0) == 0
        dispatch_chunks(database, window_per_worker=4)
    assert (
        rows(database, chunks, batch_id=batch.id),
        rows(database, batches, id=batch.id),
    ) == before


def test_pausing_and_resuming_twice_is_the_same_as_once(database: Database) -> None:
    batch = submit(database, 8)
    first = pause_batch(database, batch.id)
    assert pause_batch(database, batch.id) == first
    resumed = resume_batch(database, batch.id)
    assert resumed == resume_batch(database, batch.id) == batch


def test_a_batch_can_be_paused_while_it_is_validated(database: Database) -> None:
    file = upload(database, b"{}")
    new = NewBatch(tenant_id=TENANT, file_id=file.id, endpoint=CHAT, body_sha256="a" * 64)
    batch = create_batch(database, new).batch
    pause_batch(database, batch.id)
    validation = claim_validation(database, "v1", ttl_s=60)
    assert validation is not None
    set_model(database, validation, MODEL)
    store_lines(database, validation, 0, [accepted(0)])
    tally = Tally(accepted=1)
    finish_validation(database, validation, tally, model=MODEL, chunk_requests=8)
    assert get_batch(database, batch.id).state == BatchState.IN_PROGRESS
    assert claim_next(database, MODEL, "w1", ttl_s=TTL_S) is None
    resume_batch(database, batch.id)
    assert work_off(database) == 1


def test_a_paused_batch_can_be_cancelled_and_expires(database: Database) -> None:
    cancelled, expired = submit(database, 8), submit(database, 8, completion_window_s=0.001)
    for batch in (cancelled, expired):
        pause_batch(database, batch.id)
    assert cancel_batch(database, cancelled.id).state == BatchState.CANCELLED
    sweep_once(database)
    assert get_batch(database, expired.id).state == BatchState.EXPIRED


@pytest.mark.parametrize("change", [pause_batch, resume_batch])
def test_an_ended_batch_stays_as_it_is(database: Database, change: object) -> None:
    assert callable(change)
    batch = submit(database, 8)
    ended = cancel_batch(database, batch.id)
    with pytest.raises(StateError, match="is cancelled: it cannot be"):
        change(database, batch.id)
    assert get_batch(database, batch.id) == ended
    with pytest.raises(NotFoundError):
        change(database, batch.id, "another tenant")
