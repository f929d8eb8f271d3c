"""Writes finished requests in micro-batches, each in one fenced transaction.

Must not know the engine. A commit whose answer was lost is simply run again: the store inserts a
row once, and a chunk that was done already shows as a lost lease with nothing left to write.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from models.database import Database
from models.errors import LeaseLost
from models.generation import Refusal
from models.settings import Settings
from models.store.batches import finalize_batch
from models.store.commit import commit_outcomes
from models.store.leases import note_running, release_lease
from models.store.views import CommitReceipt, Lease, Outcome
from worker.jobs.held import HeldLease, LeaseBook
from worker.jobs.lease_keeper import lease_deadline
from worker.jobs.patience import Patience

_log = logging.getLogger(__name__)


class Committer:
    """Moves outcomes from the book into the database and closes leases."""

    def __init__(
        self,
        book: LeaseBook,
        *,
        database: Database,
        settings: Settings,
        patience: Patience,
        on_commit: Callable[[Lease], None],
    ) -> None:
        self._book = book
        self._database = database
        self._settings = settings
        self._patience = patience
        self._on_commit = on_commit
        self._oldest_at: float | None = None
        self._has_failed = False  # the last commit; nothing was written

    @property
    def is_behind(self) -> bool:
        """Whether results wait that the database did not take: no work is started meanwhile."""
        return self._has_failed and self._book.uncommitted > 0

    def take(self, held: HeldLease, outcome: Outcome) -> None:
        """Note a finished request; commits when a micro-batch has come together."""
        held.finished.append(outcome)
        if self._oldest_at is None:
            self._oldest_at = time.monotonic()
        _log.debug("request finished", extra=_request_fields(held.lease, outcome.idx))
        if self._book.uncommitted >= self._settings.micro_batch_requests:
            self.commit_all()

    def seconds_until_due(self) -> float | None:
        """When `commit_due` has work; None while nothing waits or the database is away."""
        if self._oldest_at is None or self._patience.waits:
            return None
        return max(0.0, self._oldest_at + self._settings.micro_batch_s - time.monotonic())

    def commit_due(self) -> None:
        """Commit what has waited long enough, and leases that have no more to come."""
        if self.seconds_until_due() == 0.0:
            self.commit_all()
            return
        for held in self._book.all():
            if held.is_complete:
                self.commit(held)

    def commit_all(self) -> None:
        """Commit everything that has finished, lease by lease."""
        for held in self._book.all():
            if held.finished:
                self.commit(held)
        if not self._book.uncommitted:
            self._oldest_at = None

    def commit(self, held: HeldLease) -> None:
        """Commit one lease's finished requests, unless the lease can no longer be written under."""
        sent_at = time.monotonic()
        if not held.usable(sent_at):
            return
        try:
            receipt = self._patience.attempt(lambda: self._write(held))
        except LeaseLost:
            held.lost = True
            return
        self._has_failed = receipt is None
        if receipt is None:
            return
        held.finished.clear()
        held.extend(lease_deadline(sent_at, self._settings))
        if receipt.cancelled:
            self._book.cancel(held.lease.batch_id)
        if receipt.chunk_done:
            self._close(held)
        self._on_commit(held.lease)

    def note_running(self, held: HeldLease, idx: int) -> bool:
        """Say in the database that this request runs alone; False when it must not start now.

        What finished before it is written first: when the worker dies, nothing else is blamed.
        """
        if held.finished:
            self.commit(held)
        if held.finished or not held.usable(time.monotonic()):
            return False
        try:
            return self._patience.attempt(lambda: self._note(held, idx)) is not None
        except LeaseLost:
            held.lost = True
            return False

    def release(self, held: HeldLease, reason: str, *, crashed: bool = False) -> None:
        """Give the lease back, or let it run out when the database is away; forget it."""
        self._book.forget(held)
        if not held.usable(time.monotonic()):
            return
        if self._patience.attempt(lambda: self._release(held, reason, crashed=crashed)):
            _log.info("chunk released: %s", reason, extra=_chunk_fields(held.lease))

    def blame(self, held: HeldLease, idx: int, message: str) -> None:
        """End the one request that crashed the engine, so that the others of its chunk can run."""
        held.running.pop(idx, None)
        refusal = Refusal(code="worker_lost", message=message, http_status=None)
        self.take(held, Outcome(idx=idx, refusal=refusal))
        self.commit(held)

    def finalize(self, batch_id: str) -> None:
        """Finish the batch when all its requests are final; the sweep does it otherwise."""
        self._patience.attempt(lambda: finalize_batch(self._database, batch_id))

    def _write(self, held: HeldLease) -> CommitReceipt:
        return commit_outcomes(
            self._database, held.lease, held.finished, ttl_s=self._settings.lease_ttl_s
        )

    def _note(self, held: HeldLease, idx: int) -> bool:
        note_running(self._database, held.lease, idx)
        return True

    def _release(self, held: HeldLease, reason: str, *, crashed: bool) -> bool:
        return release_lease(
            self._database,
            held.lease,
            crashed=crashed,
            reason=reason,
            max_crashes=self._settings.max_crashes,
        )

    def _close(self, held: HeldLease) -> None:
        self._book.forget(held)
        seconds = time.monotonic() - held.claimed_at
        _log.info("chunk done", extra=_chunk_fields(held.lease) | {"seconds": round(seconds, 3)})
        self.finalize(held.lease.batch_id)


def _chunk_fields(lease: Lease) -> dict[str, object]:
    return {"batch": lease.batch_id, "chunk": lease.chunk_id, "epoch": lease.epoch}


def _request_fields(lease: Lease, idx: int) -> dict[str, object]:
    return {"batch": lease.batch_id, "idx": idx, "epoch": lease.epoch}
