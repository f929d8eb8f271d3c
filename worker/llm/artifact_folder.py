"""A folder that appears whole or not at all: written beside its place, then renamed into it.

A lock file beside each unfinished folder is held by its writer; the system lets go of it when the
process dies, on whatever machine, so what is left behind can be told from what is being written.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

TEMPORARY_SUFFIX = ".tmp"
LOCK_SUFFIX = ".tmp.lock"


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A temporary folder that becomes `destination`, in one rename, when the block ends well.

    An older folder in that place is replaced; after an error nothing is left. Folders that dead
    processes left beside it are removed first.
    """
    with _temporary(destination) as temporary:
        temporary.mkdir()
        yield temporary
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        with _temporary(destination) as old:  # is deleted when the new one is there
            if destination.exists():
                destination.rename(old)
            temporary.rename(destination)
            _sync(destination.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder; an interruption leaves nothing in its place."""
    with _temporary(folder) as temporary:
        folder.rename(temporary)
        _sync(folder.parent)


def remove_abandoned(parent: Path) -> None:
    """Delete the unfinished folders in `parent` whose writers are dead."""
    for lock_file in parent.glob(f".*{LOCK_SUFFIX}"):
        try:
            with FileLock(lock_file).acquire(timeout=0):
                temporary = lock_file.with_name(lock_file.name.removesuffix(".lock"))
                shutil.rmtree(temporary, ignore_errors=True)
                lock_file.unlink(missing_ok=True)
        except Timeout:
            continue  # its writer lives


@contextmanager
def _temporary(place: Path) -> Iterator[Path]:
    """A name beside `place` that nobody else uses; what is there in the end is deleted."""
    place.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(place.parent)
    stem = f".{place.name}.{uuid.uuid4().hex}"
    lock_file = place.with_name(stem + LOCK_SUFFIX)
    temporary = place.with_name(stem + TEMPORARY_SUFFIX)
    with FileLock(lock_file):
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            lock_file.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Make a file's contents, or a folder's names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
