"""Keeps the doorbell ringing: repairs what was lost, then announces chunks up to the window.

Any number of dispatchers may run at once, on any node; every step is one transaction of the
store. Must not know who listens to the doorbell.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from models.database import Database
from models.errors import BrokerUnavailable
from models.model_key import ModelKey
from models.settings import Settings
from models.store.dispatch import dispatch_chunks, undo_dispatch
from models.store.sweep import sweep
from models.store.views import Ring, SweepReport

if TYPE_CHECKING:  # Celery takes long to import, and not everybody who sweeps has a doorbell
    from worker.doorbell import Doorbell

_log = logging.getLogger(__name__)


class Dispatcher:
    """Sweeps and rings for the given models, or for all."""

    def __init__(
        self,
        *,
        database: Database,
        doorbell: Doorbell,
        settings: Settings,
        models: Sequence[ModelKey] | None = None,
    ) -> None:
        self._database = database
        self._doorbell = doorbell
        self._settings = settings
        self._models = models

    def tick(self) -> SweepReport:
        """Sweep, then dispatch; raises DatabaseUnavailable."""
        report = sweep_once(self._database, self._settings)
        self.dispatch()
        return report

    def dispatch(self) -> int:
        """Announce chunks until the window is full; returns how many were announced.

        A broker that is away costs a warning: chunks that could not be announced are pending again.
        """
        rings = dispatch_chunks(
            self._database,
            window_per_worker=self._settings.window_per_worker,
            models=self._models,
        )
        for position, ring in enumerate(rings):
            try:
                self._doorbell.ring(ring)
            except BrokerUnavailable as exc:
                self._take_back(rings[position:], exc)
                return position
        return len(rings)

    def _take_back(self, rings: Sequence[Ring], exc: BrokerUnavailable) -> None:
        _log.warning("%d chunks could not be announced: %s", len(rings), exc)
        undo_dispatch(self._database, rings)


def sweep_once(database: Database, settings: Settings) -> SweepReport:
    """Repair what crashed workers and lost messages left; logs what was found."""
    report = sweep(
        database,
        dispatch_timeout_s=settings.dispatch_timeout_s,
        max_crashes=settings.max_crashes,
    )
    if report.expired_leases or report.lost_dispatches or report.quarantined_chunks:
        _log.info(
            "sweep repaired chunks",
            extra={
                "expired_leases": report.expired_leases,
                "lost_dispatches": report.lost_dispatches,
                "quarantined": report.quarantined_chunks,
            },
        )
    return report
