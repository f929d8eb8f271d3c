"""Files that a command writes: whole and on the disk, or not there at all.

It knows nothing of what is written.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from models.errors import InputError, StorageFull
from models.wire.json_lines import json_line

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def check_writable(path: Path) -> None:
    """Raise InputError now, when `path` could not be written at the end of a long run."""
    folder = path.resolve().parent
    # /dev/stdout may lead to a regular file, which is not ours to replace.
    is_device = path.absolute().is_relative_to("/dev")
    if is_device or (path.exists() and not path.is_file()):
        raise InputError(f"{path} is not a file; give the name of a file to write")
    if not folder.is_dir():
        raise InputError(f"the folder {folder} does not exist; create it or write elsewhere")
    if not os.access(folder, os.W_OK):
        raise InputError(f"nothing can be written in {folder}; choose another folder")


def check_distinct(files: Mapping[str, Path]) -> None:
    """Raise InputError when two of the named files are one: the later would replace the earlier."""
    names: dict[Path, str] = {}
    for name, path in files.items():
        other = names.setdefault(path.resolve(), name)
        if other != name:
            raise InputError(f"{other} and {name} are the same file {path}; give each its own")


@contextmanager
def atomic_writer(path: Path) -> Iterator[TextIO]:
    """A text file that takes the name `path` only when the block ends without an error.

    The new contents are on the disk before the old ones are replaced, and the folder's entry
    before this returns. Raises StorageFull, or InputError for a place that refuses the file.
    """
    target = path.resolve()  # a symbolic link stays one
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
        _fsync_folder(target.parent)
    except OSError as exc:
        raise _advice(path, exc) from exc
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_json_lines(path: Path, values: Iterable[Mapping[str, object]]) -> int:
    """Write one JSON object a line, atomically; returns how many there were."""
    count = 0
    with atomic_writer(path) as stream:
        for value in values:
            stream.write(json_line(value) + "\n")
            count += 1
    return count


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write one indented JSON object, atomically."""
    with atomic_writer(path) as stream:
        stream.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _advice(path: Path, exc: OSError) -> InputError | StorageFull:
    if exc.errno in _NO_SPACE:
        return StorageFull(
            f"there is no space left to write {path}; free some and run the same command again"
        )
    return InputError(f"{path} cannot be written: {exc.strerror or exc}")
