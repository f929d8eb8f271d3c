"""A thread that does small periodic chores of a worker and survives an absent database."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence

from models.errors import NightshiftError

_STOP_TIMEOUT_S = 5.0
_JITTER = 0.2  # of the period, so that workers started together do not sweep together

_log = logging.getLogger(__name__)

Chore = Callable[[], object]


class Housekeeper:
    """Runs `periodic` chores once a period and `on_wake` chores whenever it is woken."""

    def __init__(
        self, *, period_s: float, periodic: Sequence[Chore], on_wake: Sequence[Chore] = ()
    ) -> None:
        self._period_s = period_s
        self._periodic = periodic
        self._on_wake = on_wake
        self._woken = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """From any thread: do the chores that should not wait for the period."""
        self._woken.set()

    def stop(self) -> None:
        """End the thread after the chore at hand, or leave it behind if that hangs on a server."""
        self._stopping = True
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_TIMEOUT_S)

    def _run(self) -> None:
        due_at = time.monotonic()
        while not self._stopping:
            if time.monotonic() >= due_at:
                self._do(self._periodic)
                due_at = time.monotonic() + self._period_s * random.uniform(
                    1 - _JITTER, 1 + _JITTER
                )
            elif self._woken.wait(max(0.0, due_at - time.monotonic())):
                self._woken.clear()
                self._do(self._on_wake)

    def _do(self, chores: Sequence[Chore]) -> None:
        for chore in chores:
            if self._stopping:
                return
            try:
                chore()
            except NightshiftError as exc:
                _log.warning("housekeeping is delayed: %s", exc)
            except Exception:
                _log.exception("housekeeping failed; the next period tries again")
