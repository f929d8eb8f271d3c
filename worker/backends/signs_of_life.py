"""How long the engine has made no progress, told from its events.

With work in it an engine may go on talking and compute nothing: then a report whose counters stand
still says no more than silence does. When the listener itself was stopped, alone or together with
the engine, the time that it missed says nothing about the engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from worker.backends.messages import Event, Progress

_MOST_MISSED_S = 1.0  # who waits for events asks several times a second


class SignsOfLife:
    """Not safe between threads: the caller locks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_at = clock()
        self._silent_s = 0.0
        self._counted: tuple[int, ...] = ()

    @property
    def seconds_since(self) -> float:
        """Seconds since the last sign; of a time in which nobody looked only the first second."""
        now = self._clock()
        self._silent_s += min(now - self._looked_at, _MOST_MISSED_S)
        self._looked_at = now
        return self._silent_s

    def note(self, events: Iterable[Event]) -> None:
        """These events came just now."""
        for event in events:
            if self._is_sign(event):
                self._silent_s, self._looked_at = 0.0, self._clock()

    def _is_sign(self, event: Event) -> bool:
        if not isinstance(event, Progress):
            return True
        counted = (event.steps, event.prompt_tokens, event.output_tokens)
        stands_still = counted == self._counted
        self._counted = counted
        return not stands_still or event.running + event.waiting == 0
