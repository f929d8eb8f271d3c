"""Numbers and times as the page shows them: the filters of its templates."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime

from models.quantities import format_bytes, format_seconds

NONE = "-"
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def filters() -> dict[str, Callable[..., str]]:
    """By the names that templates use."""
    return {
        "count": count,
        "rate": rate,
        "seconds": seconds,
        "milliseconds": milliseconds,
        "bytes": size,
        "ago": ago,
        "iso": iso,
        "utc": utc,
    }


def count(number: int) -> str:
    """`12,345`."""
    return f"{number:,}"


def rate(per_second: float | None) -> str:
    """`0.42`, `3.4`, `1,284`: as many digits as say something."""
    if per_second is None:
        return NONE
    digits = 0 if per_second >= 100 or per_second == 0 else 1 if per_second >= 1 else 2
    return f"{per_second:,.{digits}f}"


def seconds(duration_s: float | None) -> str:
    """`12 s`, `3 min 20 s`, `2 h 05 min`."""
    if duration_s is None:
        return NONE
    if duration_s >= 10:
        return format_seconds(math.floor(duration_s)).replace(".0 s", " s")
    return format_seconds(duration_s)


def milliseconds(duration_s: float) -> str:
    """`0.4 ms`, `120 ms`, and from a second on as `seconds` has it."""
    if duration_s >= 1:
        return seconds(duration_s)
    digits = 1 if duration_s < 0.01 else 0
    return f"{duration_s * 1000:.{digits}f} ms"


def size(n_bytes: int | None) -> str:
    """`7.4 MB`."""
    return NONE if n_bytes is None else format_bytes(n_bytes)


def ago(time_s: float, now_s: float) -> str:
    """`just now`, `12 s ago`, `5 min ago`, `3 h ago`, `2 d ago`."""
    passed_s = now_s - time_s
    for unit_s, unit in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min"), (1, "s")):
        if passed_s >= unit_s:
            return f"{int(passed_s // unit_s)} {unit} ago"
    return "just now"


def iso(time_s: float) -> str:
    """For the `datetime` of a `<time>`."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")


def utc(time_s: float) -> str:
    """`2026-11-23 14:05:10 UTC`."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
