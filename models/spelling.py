"""Advice for a name that nobody knows: the known name that looks most like it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` resembles enough to be a misspelling of it."""
    matches = get_close_matches(name, sorted(known), n=1, cutoff=0.66)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the closest known name, else an empty string."""
    near = closest(name, known)
    return f"; did you mean {near}?" if near else ""
