"""Files by which the kernel tells of a machine; which of them are there depends on it."""

from __future__ import annotations

from pathlib import Path


def text_of(path: Path) -> str:
    """The file's text; empty where there is none, or it may not be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
