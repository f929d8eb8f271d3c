"""How long the engine has made no progress, told from its events.

With work in it an engine may go on talking and compute nothing: then a report whose counters stand
still says no more than silence does, also when the engine hangs before it counts what it was sent
as work. When the listener itself was stopped, alone or together with the engine, the time that it
missed says nothing about the engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from worker.backends.messages import Add, Cancel, Event, Finished, Progress

_MOST_MISSED_S = 1.0  # who waits for events asks several times a second


class SignsOfLife:
    """Not safe between threads: the caller locks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_at = clock()
        self._silent_s = 0.0
        self._counted: tuple[int, ...] = ()
        self._unanswered: set[str] = set()

    @property
    def seconds_since(self) -> float:
        """Seconds since the last sign; of a time in which nobody looked only the first second."""
        now = self._clock()
        self._silent_s += min(now - self._looked_at, _MOST_MISSED_S)
        self._looked_at = now
        return self._silent_s

    def sent(self, commands: Iterable[Add | Cancel]) -> None:
        """These commands go to the engine."""
        for command in commands:
            if isinstance(command, Add):
                self._unanswered.add(command.key)
            else:
                self._unanswered.difference_update(command.keys)

    def note(self, events: Iterable[Event]) -> None:
        """These events came just now."""
        for event in events:
            if self._is_sign(event):
                self._silent_s, self._looked_at = 0.0, self._clock()

    def _is_sign(self, event: Event) -> bool:
        if isinstance(event, Finished):
            self._unanswered.discard(event.key)
        if not isinstance(event, Progress):
            return True
        counted = (event.steps, event.prompt_tokens, event.output_tokens)
        stands_still = counted == self._counted
        self._counted = counted
        is_idle = event.running + event.waiting == 0 and not self._unanswered
        return is_idle or not stands_still
