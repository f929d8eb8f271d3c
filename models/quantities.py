"""Durations and sizes as people read them, the same on a terminal and on a page."""

from __future__ import annotations

_UNITS = ("B", "KB", "MB", "GB", "TB")


def format_seconds(seconds: float) -> str:
    """`8.4 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def format_bytes(count: int) -> str:
    """`812 B`, `7.4 MB`; decimal units as in file sizes."""
    value = float(count)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
