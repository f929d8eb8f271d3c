"""Waiting in place while the database is away or full: work is not given up, nobody is charged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from models.errors import DatabaseUnavailable, StorageFull

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Patience:
    """Runs database work, and after a failure refuses more of it for a growing while."""

    def __init__(self) -> None:
        self._pause_s = FIRST_PAUSE_S
        self._retry_at = 0.0

    @property
    def waits(self) -> bool:
        """Whether the database failed a moment ago and is not to be asked yet."""
        return time.monotonic() < self._retry_at

    def attempt(self, work: Callable[[], T]) -> T | None:
        """The work's result, or None when the database is away; other errors pass through.

        The work must be one idempotent transaction: a commit whose answer was lost is run again.
        """
        if self.waits:
            return None
        try:
            result = work()
        except (DatabaseUnavailable, StorageFull) as exc:
            self._back_off(exc)
            return None
        self._pause_s = FIRST_PAUSE_S
        return result

    def _back_off(self, exc: Exception) -> None:
        _log.warning("the database took nothing; trying again in %.1f s: %s", self._pause_s, exc)
        self._retry_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
