"""Chunks are rung for in order, within the window, and rings that get lost cost nothing."""

from __future__ import annotations

from models.database import Database
from models.model_key import ModelKey, Weights
from models.states import ChunkState
from models.store.batches import cancel_batch, list_chunks
from models.store.dispatch import dispatch_chunks, undo_dispatch
from models.store.leases import claim_chunk, release_lease
from models.store.sweep import sweep
from models.store.views import Ring, Worker
from models.store.workers import beat, leave, register_worker
from tests.store.builders import MODEL, TTL_S, at_once, claim, submit, work_off

OTHER = ModelKey("other", Weights.INT4)


def register(database: Database, worker_id: str, model: ModelKey = MODEL) -> None:
    register_worker(database, Worker(id=worker_id, model=model, host="h", pid=1))


def test_the_window_is_counted_per_live_worker(database: Database) -> None:
    submit(database, 200, chunk_requests=4)
    assert len(dispatch_chunks(database, window_per_worker=3)) == 3  # as if one worker were there
    for name in ("w1", "w2", "drains", "left"):
        register(database, name)
    beat(database, "drains", draining=True)
    leave(database, "left")
    assert len(dispatch_chunks(database, window_per_worker=3)) == 3
    assert dispatch_chunks(database, window_per_worker=3) == []


def test_a_claim_makes_room_in_the_window(database: Database) -> None:
    submit(database, 80)
    rings = dispatch_chunks(database, window_per_worker=2)
    lease = claim_chunk(database, rings[0].chunk_id, "w1", ttl_s=TTL_S)
    assert lease is not None
    assert len(dispatch_chunks(database, window_per_worker=2)) == 1


def test_rings_are_in_the_order_of_claiming_and_name_the_model(database: Database) -> None:
    young = submit(database, 8)
    urgent = submit(database, 16, priority=1)
    foreign = submit(database, 8, model=OTHER)
    rings = dispatch_chunks(database, window_per_worker=10)
    ours = [ring for ring in rings if ring.model == MODEL]
    assert [ring.batch_id for ring in ours] == [urgent.id, urgent.id, young.id]
    assert [ring.batch_id for ring in rings if ring.model == OTHER] == [foreign.id]
    assert [ring.n for ring in rings] == [1] * 4


def test_dispatching_can_be_limited_to_models_and_to_a_batch(database: Database) -> None:
    batch = submit(database, 8)
    submit(database, 8)
    foreign = submit(database, 8, model=OTHER)
    rings = dispatch_chunks(database, window_per_worker=9, models=[OTHER])
    assert [ring.batch_id for ring in rings] == [foreign.id]
    rings = dispatch_chunks(database, window_per_worker=9, only_batch=batch.id)
    assert [ring.batch_id for ring in rings] == [batch.id]


def test_a_waiting_chunk_and_a_stopped_batch_are_not_rung_for(database: Database) -> None:
    submit(database, 8)
    release_lease(database, claim(database), crashed=True, reason="crash")
    cancel_batch(database, submit(database, 8).id)
    submit(database, 8, completion_window_s=0.0)
    assert dispatch_chunks(database, window_per_worker=9) == []


def test_rings_that_could_not_be_sent_are_taken_back(database: Database) -> None:
    batch = submit(database, 24)
    rings = dispatch_chunks(database, window_per_worker=3)
    assert claim_chunk(database, rings[0].chunk_id, "w1", ttl_s=TTL_S) is not None
    assert undo_dispatch(database, rings) == 2
    assert undo_dispatch(database, rings) == 0
    assert undo_dispatch(database, []) == 0
    states = [chunk.state for chunk in list_chunks(database, batch.id)]
    assert states == [ChunkState.LEASED, ChunkState.PENDING, ChunkState.PENDING]
    again = dispatch_chunks(database, window_per_worker=3)
    assert [ring.n for ring in again] == [2, 2]
    assert undo_dispatch(database, rings) == 0  # those rings are not these


def test_a_ring_that_nobody_heard_is_rung_again_after_a_while(database: Database) -> None:
    submit(database, 8)
    dispatch_chunks(database, window_per_worker=1)
    assert sweep(database, dispatch_timeout_s=60, max_crashes=3).lost_dispatches == 0
    assert sweep(database, dispatch_timeout_s=-1, max_crashes=3).lost_dispatches == 1
    (ring,) = dispatch_chunks(database, window_per_worker=1)
    assert ring.n == 2


def test_dispatchers_at_once_do_not_overfill_the_window(database: Database) -> None:
    submit(database, 200, chunk_requests=4)

    def dispatch() -> list[Ring]:
        return dispatch_chunks(database, window_per_worker=5)

    rung = [ring.chunk_id for rings in at_once([dispatch] * 4) for ring in rings]
    assert len(rung) == len(set(rung)) == 5


def test_workers_may_claim_what_was_rung_for_somebody_else(database: Database) -> None:
    submit(database, 24)
    dispatch_chunks(database, window_per_worker=2)
    assert work_off(database, "w9") == 3
