"""The dispatcher keeps the window filled, and an absent broker costs nothing but time."""

from __future__ import annotations

from models.errors import BrokerUnavailable
from models.states import ChunkState
from models.store.views import Ring
from tests.jobs.conftest import CHUNK_REQUESTS, JobStore
from worker.dispatcher import Dispatcher
from worker.doorbell import InProcessDoorbell


class BreakingDoorbell:
    """Rings a number of times, then is away."""

    def __init__(self, rings: int) -> None:
        self.left = rings
        self.rung: list[int] = []

    def ring(self, ring: Ring) -> None:
        if not self.left:
            raise BrokerUnavailable("away")
        self.left -= 1
        self.rung.append(ring.chunk_id)


def states(store: JobStore, batch_id: str) -> list[ChunkState]:
    return [chunk.state for chunk in store.chunks(batch_id)]


def test_rings_for_a_window_of_chunks(store: JobStore) -> None:
    batch_id = store.submit(6 * CHUNK_REQUESTS)
    bell = InProcessDoorbell()
    dispatcher = Dispatcher(database=store.database, doorbell=bell, settings=store.settings)
    dispatcher.tick()
    rung = [ring.chunk_id for ring in iter(lambda: bell.wait(0), None)]
    assert rung == [chunk.id for chunk in store.chunks(batch_id)][:4]
    assert dispatcher.dispatch() == 0  # the window is full
    assert states(store, batch_id).count(ChunkState.DISPATCHED) == 4


def test_chunks_that_could_not_be_announced_are_pending_again(store: JobStore) -> None:
    batch_id = store.submit(4 * CHUNK_REQUESTS)
    bell = BreakingDoorbell(1)
    dispatcher = Dispatcher(database=store.database, doorbell=bell, settings=store.settings)
    assert dispatcher.dispatch() == 1
    assert states(store, batch_id).count(ChunkState.DISPATCHED) == 1
    bell.left = 10
    assert dispatcher.dispatch() == 3
    assert sorted(bell.rung) == [chunk.id for chunk in store.chunks(batch_id)]


def test_a_lost_ring_is_rung_again(store: JobStore) -> None:
    store.submit(CHUNK_REQUESTS)
    settings = store.settings.model_copy(update={"dispatch_timeout_s": 1e-6})
    bell = BreakingDoorbell(10)
    dispatcher = Dispatcher(database=store.database, doorbell=bell, settings=settings)
    dispatcher.tick()
    dispatcher.tick()
    assert len(bell.rung) == 2
    assert len(set(bell.rung)) == 1
