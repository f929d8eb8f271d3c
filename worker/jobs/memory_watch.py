"""Tells when the engine holds more memory than it may, so that it is replaced between chunks.

Must not know leases or processes: the runner says what it does, and how memory is read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_PERIOD_S = 1.0  # reading a process's memory is a system call

_log = logging.getLogger(__name__)


class MemoryWatch:
    """Over one engine after the other; `limit_bytes` None: there is no limit.

    An engine that has not worked yet is never over the limit: replacing it would change nothing.
    """

    def __init__(
        self,
        limit_bytes: int | None,
        read_rss_bytes: Callable[[], int],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_bytes = limit_bytes
        self._read_rss_bytes = read_rss_bytes
        self._clock = clock
        self._has_worked = False
        self._over_bytes: int | None = None  # what it held when it was found to be over the limit
        self._read_at = 0.0
        self._has_warned = False

    def loaded(self) -> None:
        """A new engine has its model and has done nothing yet."""
        self._has_worked, self._over_bytes = False, None
        if self._limit_bytes is None or self._has_warned:
            return
        rss_bytes = self._read_rss_bytes()
        if rss_bytes > self._limit_bytes:
            self._has_warned = True
            _log.warning(
                "the model alone takes %d bytes, more than NIGHTSHIFT_MAX_ENGINE_RSS_BYTES (%d): "
                "the engine is restarted after every few chunks; raise the limit",
                rss_bytes,
                self._limit_bytes,
            )

    def worked(self) -> None:
        """The engine has been given work since it was loaded."""
        self._has_worked = True

    def is_over(self) -> bool:
        """Whether the engine should be replaced; it stays so until the next one is loaded."""
        if self._limit_bytes is None or not self._has_worked or self._over_bytes is not None:
            return self._over_bytes is not None
        now = self._clock()
        if now < self._read_at + _PERIOD_S:
            return False
        self._read_at = now
        rss_bytes = self._read_rss_bytes()
        if rss_bytes > self._limit_bytes:
            self._over_bytes = rss_bytes
        return self._over_bytes is not None

    def log_restart(self) -> None:
        """Say that the engine is replaced now, and why."""
        _log.info(
            "the engine is restarted between chunks: it holds %d bytes, more than %d",
            self._over_bytes,
            self._limit_bytes,
        )
