"""Finds stop strings in text that comes in pieces, and holds back what might begin one."""

from __future__ import annotations


class StopStrings:
    """Passes text on until the stop string that ends first; that one and what follows is dropped.

    The result does not depend on how the text is cut into pieces.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, text: str, *, armed: bool = True) -> str:
        """Take the next piece, return what is certain to stay; not armed: nothing stops yet."""
        if self.found:
            return ""
        self._held += text
        end = self._first_stop() if armed else None
        if end is not None:
            self.found = True
            kept, self._held = self._held[:end], ""
            return kept
        split = len(self._held) - self._beginning()
        kept, self._held = self._held[:split], self._held[split:]
        return kept

    def flush(self) -> str:
        """What was held back; no more text comes."""
        kept, self._held = self._held, ""
        return kept

    def _first_stop(self) -> int | None:
        """Where the stop string begins that ends first, the longest of those."""
        places = [(self._held.find(stop), len(stop)) for stop in self._stops]
        found = [(place + length, place) for place, length in places if place >= 0]
        return min(found)[1] if found else None

    def _beginning(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
