"""Whatever happens between any two calls of the store, no request is lost and none is doubled.

A driver applies random steps of many workers that may die, stall and come back at any point; at
the end one honest worker and the sweeper finish the rest. The seed is in the test's name.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from models.database import Database
from models.errors import LeaseLost, StateError
from models.states import BatchState, is_terminal
from models.store.batches import cancel_batch, finalize_batch, get_batch, list_chunks
from models.store.commit import commit_outcomes
from models.store.dispatch import dispatch_chunks, undo_dispatch
from models.store.leases import (
    claim_chunk,
    claim_next,
    missing_requests,
    release_lease,
    renew_lease,
)
from models.store.results import stream_records
from models.store.submit import submit_batch
from models.store.sweep import sweep
from models.store.views import Batch, Lease, Outcome, RequestRecord
from models.tables import attempts, results
from models.wire.lines import Line
from tests.store.builders import (
    MODEL,
    TTL_S,
    accepted,
    answer,
    answers,
    check_counters,
    end_back_offs,
    end_leases,
    refused,
    rows,
    submission,
    work_off,
)

N_REQUESTS = 30
N_STEPS = 50
NEVER_RAN = {"worker_lost", "batch_cancelled"}


class Nemesis:
    """Random steps. Leases that it was ever given stay at hand, also those that are long lost."""

    def __init__(self, database: Database, batch: Batch, seed: int) -> None:
        self._database = database
        self._batch = batch
        self._random = random.Random(seed)
        self._leases: list[Lease] = []
        self._read: dict[Lease, list[Outcome]] = {}

    def step(self) -> None:
        steps: list[tuple[int, Callable[[], object]]] = [
            (6, self._claim_next),
            (3, self._claim_named),
            (10, self._commit),
            (2, self._renew),
            (2, self._release),
            (2, self._time_passes),
            (3, self._sweep),
            (2, self._dispatch),
            (2, self._finalize),
        ]
        if self._batch.priority:  # in some lives somebody cancels
            steps.append((1, self._cancel))
        weights = [weight for weight, _ in steps]
        _, chosen = self._random.choices(steps, weights)[0]
        chosen()

    def _claim_next(self) -> None:
        worker = f"w{self._random.randrange(3)}"
        self._keep(claim_next(self._database, MODEL, worker, ttl_s=TTL_S, max_crashes=4))

    def _claim_named(self) -> None:
        chunk = self._random.choice(list_chunks(self._database, self._batch.id))
        self._keep(claim_chunk(self._database, chunk.id, "named", ttl_s=TTL_S, max_crashes=4))

    def _keep(self, lease: Lease | None) -> None:
        if lease is not None:
            self._leases.append(lease)
            self._read[lease] = answers(missing_requests(self._database, lease))

    def _commit(self) -> None:
        if not self._leases:
            return
        lease = self._random.choice(self._leases)
        known = self._read[lease]
        some = self._random.sample(known, self._random.randint(0, len(known)))
        before = len(rows(self._database, results, batch_id=self._batch.id))
        try:
            receipt = commit_outcomes(self._database, lease, some, ttl_s=TTL_S)
        except LeaseLost:
            inserted = 0
        else:
            inserted = receipt.inserted
        after = rows(self._database, results, batch_id=self._batch.id)
        assert len(after) == before + inserted

    def _renew(self) -> None:
        if self._leases:
            lease = self._random.choice(self._leases)
            try:
                renew_lease(self._database, lease, TTL_S)
            except LeaseLost:
                self._leases.remove(lease)

    def _release(self) -> None:
        if self._leases:
            lease = self._random.choice(self._leases)
            crashed = self._random.random() < 0.3
            release_lease(self._database, lease, crashed=crashed, reason="nemesis", max_crashes=4)

    def _time_passes(self) -> None:
        end_back_offs(self._database)
        if self._random.random() < 0.5:
            end_leases(self._database)

    def _sweep(self) -> None:
        timeout_s = self._random.choice([-1.0, 60.0])
        sweep(self._database, dispatch_timeout_s=timeout_s, max_crashes=4)

    def _dispatch(self) -> None:
        rings = dispatch_chunks(self._database, window_per_worker=2)
        if self._random.random() < 0.3:
            undo_dispatch(self._database, rings)

    def _finalize(self) -> None:
        finalize_batch(self._database, self._batch.id)

    def _cancel(self) -> None:
        try:
            cancel_batch(self._database, self._batch.id)
        except StateError:
            assert get_batch(self._database, self._batch.id).is_terminal


def finish_honestly(database: Database) -> None:
    """All leases run out, then one worker and the sweeper do what is left."""
    end_back_offs(database)
    end_leases(database)
    sweep(database, dispatch_timeout_s=-1, max_crashes=100)
    work_off(database, "honest")
    sweep(database, dispatch_timeout_s=-1, max_crashes=100)


def check_record(record: RequestRecord) -> None:
    """The answer is this request's own; an error says why it never ran."""
    if record.refusal is None:
        assert record.generation == answer(record.idx).generation
    elif record.idx == 7:
        assert record.refusal.code == "unsupported_parameter"
    else:
        assert record.refusal.code in NEVER_RAN


def check_attempts(database: Database, batch: Batch) -> None:
    """Every epoch has its attempt, and every attempt its end."""
    for chunk in list_chunks(database, batch.id):
        assert is_terminal(chunk.state)
        history = rows(database, attempts, chunk_id=chunk.id)
        assert [attempt["epoch"] for attempt in history] == list(range(1, chunk.epoch + 1))
        assert all(attempt["outcome"] and attempt["ended_at"] for attempt in history)
    total = sum(row["n_done"] for row in rows(database, attempts))
    assert total == sum(row["epoch"] > 0 for row in rows(database, results))


@pytest.mark.parametrize("seed", range(8))
def test_every_request_ends_exactly_once(database: Database, seed: int) -> None:
    lines: list[Line] = [refused(n) if n == 7 else accepted(n) for n in range(N_REQUESTS)]
    cancelled = seed % 3 == 0
    wanted = submission(chunk_requests=6, priority=int(cancelled))
    batch = submit_batch(database, wanted, lines).batch
    nemesis = Nemesis(database, batch, seed)
    for _ in range(N_STEPS):
        nemesis.step()
    check_counters(database, batch.id)
    finish_honestly(database)
    final = get_batch(database, batch.id)
    assert final.state in {BatchState.COMPLETED, BatchState.CANCELLED}
    assert final.state is BatchState.COMPLETED or cancelled
    records = list(stream_records(database, batch.id))
    assert [record.idx for record in records] == list(range(N_REQUESTS))
    for record in records:
        check_record(record)
    assert final.completed + final.failed == N_REQUESTS
    check_counters(database, batch.id)
    check_attempts(database, batch)
