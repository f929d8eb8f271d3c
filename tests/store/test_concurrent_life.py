"""Workers, sweepers and cancellations really at once, with leases that run out all the time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial

import pytest

from models.database import Database
from models.errors import LeaseLost, StateError
from models.states import BatchState
from models.store.batches import cancel_batch, finalize_batch, get_batch
from models.store.commit import commit_outcomes
from models.store.dispatch import dispatch_chunks
from models.store.leases import claim_next, missing_requests, release_lease
from models.store.results import stream_records
from models.store.sweep import sweep
from models.store.views import Batch, Lease
from tests.store.builders import MODEL, TTL_S, answer, answers, at_once, check_counters, submit

SHORT_TTL_S = 0.05
DEADLINE_S = 60.0


class Crowd:
    """What each thread does until all batches have ended."""

    def __init__(self, database: Database, batches: list[Batch]) -> None:
        self._database = database
        self._batches = batches
        self._deadline = time.monotonic() + DEADLINE_S

    def work(self, name: str) -> None:
        choice = random.Random(name)
        while self._goes_on():
            ttl_s = choice.choice([SHORT_TTL_S, TTL_S])
            lease = claim_next(self._database, MODEL, name, ttl_s=ttl_s, max_crashes=10_000)
            if lease is not None:
                self._serve(lease, choice, ttl_s)

    def sweep(self) -> None:
        while self._goes_on():
            sweep(self._database, dispatch_timeout_s=0.01, max_crashes=10_000)
            dispatch_chunks(self._database, window_per_worker=3)

    def cancel(self, batch: Batch) -> None:
        try:
            cancel_batch(self._database, batch.id)
        except StateError:
            return  # the batch was finished before

    def _serve(self, lease: Lease, choice: random.Random, ttl_s: float) -> None:
        try:
            outcomes = answers(missing_requests(self._database, lease))
            half = len(outcomes) // 2
            commit_outcomes(self._database, lease, outcomes[:half], ttl_s=ttl_s)
            if ttl_s == SHORT_TTL_S and choice.random() < 0.3:
                return  # the worker dies
            if choice.random() < 0.2:
                release_lease(self._database, lease, crashed=False, reason="drained")
                return
            receipt = commit_outcomes(self._database, lease, outcomes[half:], ttl_s=ttl_s)
            if receipt.cancelled and not receipt.chunk_done:
                release_lease(self._database, lease, crashed=False, reason="cancelled")
        except LeaseLost:
            return
        finalize_batch(self._database, lease.batch_id)

    def _goes_on(self) -> bool:
        assert time.monotonic() < self._deadline, "the batches do not end"
        ids = [batch.id for batch in self._batches]
        return not all(get_batch(self._database, batch_id).is_terminal for batch_id in ids)


@pytest.mark.parametrize("n_cancelled", [0, 1])
def test_many_workers_and_sweepers_at_once_lose_and_double_nothing(
    database: Database, n_cancelled: int
) -> None:
    batches = [submit(database, 36, chunk_requests=6) for _ in range(2)]
    crowd = Crowd(database, batches)
    people: list[Callable[[], None]] = [partial(crowd.work, f"w{n}") for n in range(3)]
    people += [partial(crowd.cancel, batch) for batch in batches[:n_cancelled]]
    at_once([*people, crowd.sweep, crowd.sweep])
    for number, batch in enumerate(batches):
        final = get_batch(database, batch.id)
        is_cancelled = final.state is BatchState.CANCELLED
        assert is_cancelled or final.state is BatchState.COMPLETED
        assert number < n_cancelled or not is_cancelled
        records = list(stream_records(database, batch.id))
        assert [record.idx for record in records] == list(range(36))
        for record in records:
            expected = None if record.refusal else answer(record.idx).generation
            assert record.generation == expected
            assert record.refusal is None or is_cancelled
        check_counters(database, batch.id)
