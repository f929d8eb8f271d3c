"""The thread beside the endpoints for what needs no caller; it outlives an absent database."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from models.errors import NightshiftError

PERIOD_S = 1.0  # also the longest that a new batch of another API process waits
_STOP_TIMEOUT_S = 10.0

_log = logging.getLogger(__name__)

Chore = Callable[[], object]


class Background:
    """Does the chores in their order whenever it is woken, and once a period."""

    def __init__(self, chores: Sequence[Chore], *, name: str = "background") -> None:
        self._chores = chores
        self._woken = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def is_stopping(self) -> bool:
        """For chores that take long: whether to end early."""
        return self._stopping

    def wake(self) -> None:
        """From any thread: do the chores now."""
        self._woken.set()

    def stop(self) -> None:
        """End after the chore at hand."""
        self._stopping = True
        self._woken.set()
        self._thread.join(_STOP_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stopping:
            for chore in self._chores:
                if not self._stopping:
                    _do(chore)
            self._woken.wait(PERIOD_S)
            self._woken.clear()


def _do(chore: Chore) -> None:
    try:
        chore()
    except NightshiftError as exc:
        _log.warning("background work is delayed: %s", exc)
    except Exception:
        _log.exception("background work failed; the next period tries again")
