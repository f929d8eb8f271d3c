"""Notices a worker that lives but no longer hears its queue.

Brokers' clients have had bugs of this class for years, most of them after a reconnection. A
listening worker takes a waiting message within moments; one that lets messages lie while it has
nothing in hand is deaf, and only a new process helps. Must not know the broker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from models.errors import BrokerUnavailable

EXIT_DEAF = 75  # EX_TEMPFAIL: a service manager shall start the worker again
DEAF_AFTER_S = 60.0


class DeafnessWatch:
    """Judges by the number of waiting messages, which `waiting` returns."""

    def __init__(
        self,
        waiting: Callable[[], int],
        *,
        limit_s: float = DEAF_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waiting = waiting
        self._limit_s = limit_s
        self._clock = clock
        self._lock = threading.Lock()
        self._in_hand = 0
        self._unheard_since: float | None = None

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Around the handling of a message: hearing one proves that the worker hears."""
        with self._lock:
            self._in_hand += 1
            self._unheard_since = None
        try:
            yield
        finally:
            with self._lock:
                self._in_hand -= 1

    def is_deaf(self) -> bool:
        """Whether messages have waited for the limit without one being heard; call it often."""
        try:
            waiting = self._waiting()
        except BrokerUnavailable:
            waiting = 0  # nobody hears a broker that is away
        with self._lock:
            if self._in_hand or not waiting:
                self._unheard_since = None
                return False
            if self._unheard_since is None:
                self._unheard_since = self._clock()
            return self._clock() - self._unheard_since > self._limit_s
