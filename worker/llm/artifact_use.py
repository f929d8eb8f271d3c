"""Which artifacts are in use on this node, and when each was last loaded.

A lock file beside an artifact is shared by all processes that have it loaded or push it; the system
lets go of it when a process ends, however it ends. Its time is that of the last loading.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from models.errors import StateError
from worker.llm.artifact import MANIFEST_NAME


def make_mark(folder: Path) -> None:
    """Let processes that may only read the registry mark the artifact too."""
    mark = _mark(folder)
    if not mark.exists():
        mark.touch()
        os.utime(mark, (0, 0))  # that is no use


def mark_used(folder: Path) -> None:
    """Keep the artifact from being removed until this process ends.

    Who may not write in the registry leaves the time as it is.
    """
    with suppress(OSError):
        descriptor = _open(folder)  # never closed: it is the mark
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.utime(descriptor)


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Keep the artifact from being removed meanwhile, as `mark_used` does, but not as a loading."""
    with ExitStack() as held:
        with suppress(OSError):
            make_mark(folder)
            descriptor = _open(folder)
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield


@contextmanager
def unused(folder: Path) -> Iterator[Path]:
    """Let nobody load the artifact meanwhile; raises StateError when a process uses it."""
    make_mark(folder)
    descriptor = _open(folder)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StateError(
                f"{folder} is loaded or being pushed by a process of this machine: stop its "
                "workers first, or wait for the push"
            ) from exc
        yield folder
    finally:
        os.close(descriptor)


def last_used_at(folder: Path) -> float:
    """When the artifact was last loaded, or made when it never was; Unix seconds."""
    times = (folder / MANIFEST_NAME, _mark(folder))
    return max(path.stat().st_mtime for path in times if path.exists())


def _open(folder: Path) -> int:
    try:
        return os.open(_mark(folder), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:  # a shared lock needs no right to write
        return os.open(_mark(folder), os.O_RDONLY)


def _mark(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.used")
