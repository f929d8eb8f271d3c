"""Tenants share a model's workers equally; each one's batches run in its own order."""

from __future__ import annotations

from collections import Counter

import pytest

from models.database import Database
from models.model_key import ModelKey, Weights
from models.states import ChunkState
from models.store.batches import list_chunks
from models.store.dispatch import dispatch_chunks
from models.store.fair_share import WaitingBatch, take_turns
from models.store.leases import claim_chunk, claim_next, release_lease
from models.store.views import Lease
from tests.store.builders import (
    MODEL,
    TTL_S,
    at_once,
    chunk_of,
    claim,
    end_leases,
    finish,
    submit,
)

DAY_S = 86_400.0
OTHER = ModelKey("other", Weights.INT8)


def claim_batches(database: Database, n: int) -> list[str]:
    return [claim(database).batch_id for _ in range(n)]


def test_of_one_tenant_the_earlier_deadline_is_first_within_a_priority(database: Database) -> None:
    endless = submit(database, 8)
    late = submit(database, 8, completion_window_s=3 * DAY_S)
    soon = submit(database, 8, completion_window_s=DAY_S)
    urgent = submit(database, 8, priority=1)
    assert claim_batches(database, 4) == [urgent.id, soon.id, late.id, endless.id]


def test_the_tenant_that_holds_least_is_next_whatever_the_priorities(database: Database) -> None:
    many = submit(database, 40, priority=9, tenant_id="a")
    few = submit(database, 16, tenant_id="b")
    own = submit(database, 8, priority=1, tenant_id="b")
    order = claim_batches(database, 7)
    assert order == [many.id, own.id, many.id, few.id, many.id, few.id, many.id]


def test_a_finished_chunk_gives_its_tenant_the_next_turn(database: Database) -> None:
    a = submit(database, 40, tenant_id="a")
    b = submit(database, 40, tenant_id="b")
    first, second = claim(database), claim(database)
    assert (first.batch_id, second.batch_id) == (a.id, b.id)
    finish(database, second)
    third = claim(database)
    assert third.batch_id == b.id
    release_lease(database, first, crashed=False, reason="drained")
    assert claim(database).batch_id == a.id


def test_what_is_held_of_another_model_does_not_count(database: Database) -> None:
    submit(database, 24, tenant_id="a", model=OTHER)
    first = submit(database, 8, tenant_id="a")
    submit(database, 8, tenant_id="b")
    for _ in range(3):
        assert claim_next(database, OTHER, "w", ttl_s=TTL_S) is not None
    assert claim(database).batch_id == first.id


def test_chunks_that_are_only_rung_for_are_no_share_of_a_claim(database: Database) -> None:
    old = submit(database, 32, tenant_id="a")
    dispatch_chunks(database, window_per_worker=4)
    young = submit(database, 32, tenant_id="b")
    assert claim_batches(database, 4) == [old.id, young.id, old.id, young.id]


def test_rings_go_to_the_tenants_in_turns(database: Database) -> None:
    a = submit(database, 32, tenant_id="a", priority=5)
    b = submit(database, 16, tenant_id="b")
    c = submit(database, 8, tenant_id="c")
    rings = dispatch_chunks(database, window_per_worker=7)
    assert [ring.batch_id for ring in rings] == [a.id, b.id, c.id, a.id, b.id, a.id, a.id]
    numbers = {chunk.id: chunk.number for chunk in list_chunks(database, a.id)}
    assert [numbers[ring.chunk_id] for ring in rings if ring.batch_id == a.id] == [0, 1, 2, 3]


def test_a_ring_counts_what_is_rung_for_or_held_already(database: Database) -> None:
    a = submit(database, 80, tenant_id="a")
    (first, _) = dispatch_chunks(database, window_per_worker=2)
    assert claim_chunk(database, first.chunk_id, "w", ttl_s=TTL_S) is not None
    b = submit(database, 80, tenant_id="b")
    rings = dispatch_chunks(database, window_per_worker=6)
    assert [ring.batch_id for ring in rings] == [b.id, b.id, a.id, b.id, a.id]


def test_a_lease_that_ran_out_comes_before_later_chunks_of_its_batch(database: Database) -> None:
    submit(database, 24)
    first = claim(database)
    claim(database)
    end_leases(database)
    again = claim(database, "w2")
    assert (again.chunk_id, again.epoch) == (first.chunk_id, 2)
    assert [chunk_of(database, claim(database)).number for _ in range(2)] == [1, 2]


def test_workers_at_once_take_every_chunk_of_every_tenant_once(database: Database) -> None:
    for tenant_id in "abc":
        submit(database, 24, tenant_id=tenant_id)

    def work() -> list[Lease]:
        return [claim(database) for _ in range(3)]

    leases = [lease for found in at_once([work] * 3) for lease in found]
    assert len({lease.chunk_id for lease in leases}) == 9
    assert claim_next(database, MODEL, "w", ttl_s=TTL_S) is None


def test_dispatching_and_claiming_at_once_never_takes_a_chunk_back(database: Database) -> None:
    batch = submit(database, 64, chunk_requests=2)

    def work() -> int:
        return len([claim(database) for _ in range(8)])

    at_once([work, work, lambda: len(dispatch_chunks(database, window_per_worker=8))])
    states = Counter(chunk.state for chunk in list_chunks(database, batch.id))
    assert states[ChunkState.LEASED] == 16
    assert states[ChunkState.LEASED] + states[ChunkState.PENDING] + states[
        ChunkState.DISPATCHED
    ] == len(list_chunks(database, batch.id))


@pytest.mark.parametrize(
    ("held", "expected"),
    [({}, "a1 b1 c1 b2 a2 c2"), ({"a": 2, "b": 1}, "c1 b1 c2 a1 b2 a2")],
)
def test_turns_are_taken_as_if_each_chunk_were_held_at_once(
    held: dict[str, int], expected: str
) -> None:
    stored = {"1": ["a1"], "2": ["b1", "b2"], "3": ["a2"], "4": [], "5": ["c1", "c2"]}
    owners = {"1": "a", "2": "b", "3": "a", "4": "c", "5": "c"}
    waiting = [WaitingBatch(batch_id, owner) for batch_id, owner in owners.items()]
    turns = take_turns(waiting, Counter(held), stored.__getitem__)
    assert " ".join(turns) == expected
