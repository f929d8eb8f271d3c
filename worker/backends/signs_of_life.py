"""When the engine last made progress, told from its events.

With work in it an engine may go on talking and compute nothing: then a report whose counters stand
still says no more than silence does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from worker.backends.messages import Event, Progress


class SignsOfLife:
    """Not safe between threads: the caller locks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_at = clock()
        self._counted: tuple[int, ...] = ()

    @property
    def seconds_since(self) -> float:
        """Seconds since the last sign."""
        return self._clock() - self._last_at

    def note(self, events: Iterable[Event]) -> None:
        """These events came just now."""
        for event in events:
            if self._is_sign(event):
                self._last_at = self._clock()

    def _is_sign(self, event: Event) -> bool:
        if not isinstance(event, Progress):
            return True
        counted = (event.steps, event.prompt_tokens, event.output_tokens)
        stands_still = counted == self._counted
        self._counted = counted
        return not stands_still or event.running + event.waiting == 0
