"""Advice for a name that nobody knows: the known name that looks most like it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the known name that `name` resembles, else an empty string."""
    matches = get_close_matches(name, sorted(known), n=1, cutoff=0.7)
    return f"; did you mean {matches[0]}?" if matches else ""
