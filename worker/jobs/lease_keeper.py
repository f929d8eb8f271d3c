"""Keeps held leases alive from a thread and a database connection of its own.

A lease is renewed only while the engine makes progress: a heartbeat that is not tied to it would
keep a hung engine's chunks for ever.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from models.database import Database
from models.errors import DatabaseUnavailable, LeaseLost, StorageFull
from models.settings import Settings
from models.store.leases import renew_lease
from worker.jobs.held import HeldLease, LeaseBook

_STOP_TIMEOUT_S = 5.0
_FENCED_EARLY = 1 / 3  # of a period
_NEXT_TRY = 0.2  # of a period, when the database does not answer

_log = logging.getLogger(__name__)


def lease_deadline(sent_at: float, settings: Settings) -> float:
    """Until when a lease may be written under, on the monotonic clock.

    Counted from before the renewal was sent and a little short, so that this process fences itself
    before the database's clock can give the chunk to another. With the defaults an outage of a
    minute ends before that, also one that begins when a renewal is due and ends just after a try.
    """
    return sent_at + settings.lease_ttl_s - _FENCED_EARLY * settings.renew_period_s


class LeaseKeeper:
    """Renews every lease in the book once a period, between `start` and `stop`."""

    def __init__(
        self,
        book: LeaseBook,
        *,
        database: Database,
        settings: Settings,
        is_engine_alive: Callable[[], bool],
    ) -> None:
        self._book = book
        self._database = database
        self._settings = settings
        self._is_engine_alive = is_engine_alive
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; leases that are still held run out."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_TIMEOUT_S)  # it may hang on a server that is away

    def renew_all(self) -> bool:
        """Renew every lease once, up to the first that the database does not answer for."""
        if not self._is_engine_alive():
            return True
        return all(self._renew(held) for held in self._book.all() if not held.lost)

    def _run(self) -> None:
        pause_s = self._settings.renew_period_s
        while not self._stopping.wait(pause_s):
            answered = self._renew_all_or_log()
            # A short outage must not cost a whole period of the lease's life.
            pause_s = self._settings.renew_period_s * (1.0 if answered else _NEXT_TRY)

    def _renew_all_or_log(self) -> bool:
        try:
            return self.renew_all()
        except Exception:
            _log.exception("leases could not be renewed")  # they end by themselves, as they should
            return False

    def _renew(self, held: HeldLease) -> bool:
        sent_at = time.monotonic()
        try:
            receipt = renew_lease(self._database, held.lease, self._settings.lease_ttl_s)
        except LeaseLost:
            held.lost = True
            return True
        except (DatabaseUnavailable, StorageFull) as exc:
            _log.warning("a lease could not be renewed: %s", exc)
            return False
        held.extend(lease_deadline(sent_at, self._settings))
        if receipt.cancelled:
            self._book.cancel(held.lease.batch_id)
        return True
