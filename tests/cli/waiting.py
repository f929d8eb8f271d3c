"""Bounded polling: tests wait for what happens, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

LONGEST_S = 90.0
_PERIOD_S = 0.1

T = TypeVar("T")


def until(look: Callable[[], T | None], what: str) -> T:
    """The first result of `look` that is not None; fails the test when none comes in time."""
    deadline = time.monotonic() + LONGEST_S
    while (found := look()) is None:
        assert time.monotonic() < deadline, f"waited {LONGEST_S:.0f} s in vain for {what}"
        time.sleep(_PERIOD_S)
    return found
