"""How fast requests finish, which decides how many are held ready for the engine."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_WINDOW_S = 0.25  # longer than a commit takes, even on a slow disk


class Pace:
    """Counts what finished within the last quarter of a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._finished: deque[tuple[float, int]] = deque()  # when, and how many
        self._recent = 0

    def note(self, finished: int) -> None:
        """So many requests finished just now."""
        self._finished.append((self._clock(), finished))
        self._recent += finished

    @property
    def recent(self) -> int:
        """Requests that finished within the window: as many will within the next."""
        since = self._clock() - _WINDOW_S
        while self._finished and self._finished[0][0] < since:
            self._recent -= self._finished.popleft()[1]
        return self._recent
