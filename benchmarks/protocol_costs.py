"""What each step of the protocol costs with what is in the database by now.

Every sample is one call of the store, in this process. Steps that change something are undone, or
leave chunks done as they do in service.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, delete, insert

from benchmarks.protocol_fill import (
    MICRO_BATCH,
    MODEL,
    WORKER_ID,
    answer_text,
    finish_chunks,
    new_answer,
    new_lines,
    new_submission,
    queue_batch,
)
from models.database import Database
from models.generation import Frozen
from models.settings import Settings
from models.states import BatchState
from models.store.batches import finalize_batch, get_batch, list_batches
from models.store.commit import commit_outcomes
from models.store.dispatch import dispatch_chunks, undo_dispatch
from models.store.forecast import Capacity, model_capacity
from models.store.leases import claim_next, missing_requests, release_lease, renew_lease
from models.store.lines import grouped, insert_lines
from models.store.plan import plan_chunks
from models.store.submit import batch_row
from models.store.sweep import sweep
from models.store.views import Lease, Outcome, QueuedRequest
from models.store.workers import beat
from models.tables import batches

PROBE_REQUESTS = 10_000
_N_PROBES = 5
_N_CALLS = 30
_N_CHUNKS = 7  # the smallest size has one more: its last, which is a small one


class Cost(Frozen):
    """One step at one size, in microseconds of one call or of one request of it."""

    median_us: float
    least_us: float
    most_us: float
    n_samples: int


class _RolledBack(Exception):
    """Ends a transaction whose rows were only there to be measured."""


class Costs:
    """Measures all steps; `summary` has the figures."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)

    def summary(self) -> Mapping[str, Cost]:
        """Every step that was measured."""
        return {name: _cost(seconds) for name, seconds in self._seconds.items()}

    def measure(self, batch_id: str) -> None:
        """All steps; `batch_id` is a batch of the database, to be asked for."""
        beat(self._database, WORKER_ID)
        for number in range(_N_PROBES):
            self._measure_batch(number)
        for _ in range(_N_CALLS):
            self._measure_idle(batch_id)
            self._measure_claim()
        for _ in range(_N_CHUNKS):
            self._measure_commits(MICRO_BATCH)
        self._measure_commits(1)

    def _measure_batch(self, number: int) -> None:
        """A batch of its own, from its submission to its end; it leaves nothing behind."""
        with self._timed("submit", PROBE_REQUESTS):
            batch = queue_batch(self._database, number, PROBE_REQUESTS)
        self._measure_plan(number, batch.file_id)
        finish_chunks(self._database, batch.id, 1.0)
        with self._timed("finalize", PROBE_REQUESTS):
            ended = finalize_batch(self._database, batch.id)
        assert ended.state is BatchState.COMPLETED, ended
        with self._database.begin() as connection:
            connection.execute(delete(batches).where(batches.c.id == batch.id))

    def _measure_plan(self, number: int, file_id: str) -> None:
        """The plan is a part of `submit`; here it is made once more and rolled back."""
        batch_id = f"batch_of_plan_{number}"
        row = batch_row(new_submission(number, PROBE_REQUESTS), batch_id, file_id)
        capacity = model_capacity(self._database, MODEL)
        try:
            with self._database.begin() as connection:
                connection.execute(insert(batches).values(row))
                self._store_and_plan(connection, batch_id, number, capacity)
                raise _RolledBack
        except _RolledBack:
            return

    def _store_and_plan(
        self, connection: Connection, batch_id: str, number: int, capacity: Capacity
    ) -> None:
        first = 0
        for group in grouped(new_lines(number, PROBE_REQUESTS)):
            insert_lines(connection, batch_id, first, group)
            first += len(group)
        with self._timed("plan", PROBE_REQUESTS):
            plan_chunks(
                connection,
                batch_id,
                n_requests=PROBE_REQUESTS,
                limit=self._settings.chunk_requests,
                capacity=capacity,
            )

    def _measure_idle(self, batch_id: str) -> None:
        """What is asked while nothing happens, and the ringing for a full window."""
        database, settings = self._database, self._settings
        with self._timed("sweep"):
            sweep(
                database,
                dispatch_timeout_s=settings.dispatch_timeout_s,
                max_crashes=settings.max_crashes,
            )
        with self._timed("dispatch"):
            rings = dispatch_chunks(database, window_per_worker=settings.window_per_worker)
        assert rings
        with self._timed("dispatch, window full"):
            assert not dispatch_chunks(database, window_per_worker=settings.window_per_worker)
        undo_dispatch(database, rings)
        with self._timed("status"):
            get_batch(database, batch_id)
        with self._timed("list"):
            list_batches(database)

    def _measure_claim(self) -> None:
        """A claim and a renewal; the chunk is given back."""
        lease, _ = self._claim()
        with self._timed("renew"):
            renew_lease(self._database, lease, self._settings.lease_ttl_s)
        release_lease(self._database, lease, crashed=False, reason="measured")

    def _measure_commits(self, n_outcomes: int) -> None:
        """A chunk is done, in commits of so many requests."""
        lease, requests = self._claim()
        text = answer_text()
        outcomes = [Outcome(idx=r.idx, generation=new_answer(text)) for r in requests]
        for start in range(0, len(outcomes), n_outcomes):
            group = outcomes[start : start + n_outcomes]
            with self._timed(f"commit of {n_outcomes}"):
                commit_outcomes(self._database, lease, group, ttl_s=self._settings.lease_ttl_s)

    def _claim(self) -> tuple[Lease, Sequence[QueuedRequest]]:
        with self._timed("claim"):
            lease = claim_next(self._database, MODEL, WORKER_ID, ttl_s=self._settings.lease_ttl_s)
        assert lease is not None, "no chunk is left"
        with self._timed("read requests"):
            requests = missing_requests(self._database, lease)
        return lease, requests

    @contextmanager
    def _timed(self, step: str, n_requests: int = 1) -> Iterator[None]:
        began_s = time.perf_counter()
        yield
        self._seconds[step].append((time.perf_counter() - began_s) / n_requests)


def _cost(seconds: Sequence[float]) -> Cost:
    us = [round(1e6 * value, 1) for value in seconds]
    return Cost(
        median_us=round(statistics.median(us), 1),
        least_us=min(us),
        most_us=max(us),
        n_samples=len(us),
    )
