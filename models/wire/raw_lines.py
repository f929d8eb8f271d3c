"""Reading an input file line by line in bounded memory, whatever it holds.

It knows bytes and limits, nothing of JSON or requests.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from models.errors import InputFileError
from models.wire.limits import InputLimits

_BOM = b"\xef\xbb\xbf"
_DIGEST_PIECE_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class RawLine:
    """One line with its line end; `data` is None for a line that is over the limit."""

    number: int
    data: bytes | None

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing in it."""
        return self.data is not None and not self.data.strip()


def check_input_file(path: Path, limits: InputLimits) -> None:
    """Raise InputFileError unless `path` is a regular file of an allowed size."""
    with file_errors(path):
        status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise InputFileError(f"{path} is a folder; give one file of requests")
    if not stat.S_ISREG(status.st_mode):
        raise InputFileError(f"{path} is not a regular file; write the requests into one first")
    if status.st_size > limits.max_file_bytes:
        raise too_many_bytes(str(path), limits)
    if status.st_size == 0:
        raise InputFileError(f"{path} is empty; give one request per line", code="empty_file")


def too_many_bytes(name: str, limits: InputLimits) -> InputFileError:
    """The error of a file that is over the limit."""
    return InputFileError(
        f"{name} has more than {limits.max_file_bytes} bytes; split it, or raise "
        "NIGHTSHIFT_MAX_FILE_BYTES",
        code="file_too_large",
    )


def read_raw_lines(path: Path, limits: InputLimits) -> Iterator[RawLine]:
    """Every line of the file, numbered from 1, `.gz` unpacked, a byte order mark dropped.

    Raises InputFileError when the file cannot be read or has too many bytes after unpacking.
    """
    with file_errors(path), open_input(path) as stream:
        yield from split_raw_lines(stream, limits, name=str(path))


def split_raw_lines(stream: IO[bytes], limits: InputLimits, *, name: str) -> Iterator[RawLine]:
    """The same of an open stream, which errors call `name`."""
    used_bytes = 0
    for number, (data, line_bytes) in enumerate(_pieces(stream, limits), 1):
        used_bytes += line_bytes
        if used_bytes > limits.max_file_bytes:
            raise too_many_bytes(name, limits)
        if number == 1 and data is not None:
            data = data.removeprefix(_BOM)
        yield RawLine(number, data)


def open_input(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked when its name ends in `.gz`."""
    if path.suffix.lower() == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn what the system says about an unreadable file into an InputFileError."""
    try:
        yield
    except FileNotFoundError as exc:
        raise InputFileError(f"there is no file {path}; check the path") from exc
    except (OSError, EOFError, zlib.error, ValueError) as exc:
        reason = (
            os.strerror(exc.errno) if isinstance(exc, OSError) and exc.errno else reason_of(exc)
        )
        raise InputFileError(f"{path} cannot be read ({reason}); give a readable file") from exc


def reason_of(exc: Exception) -> str:
    """What a library says about a file, in one line that can be shown."""
    said = "".join(char if char.isprintable() else " " for char in str(exc))
    return " ".join(said.split()) or type(exc).__name__


def file_digest(path: Path) -> tuple[str, int]:
    """SHA-256 (hexadecimal) and size in bytes of the file as it lies on the disk."""
    digest = hashlib.sha256()
    size_bytes = 0
    with file_errors(path), path.open("rb") as stream:
        while piece := stream.read(_DIGEST_PIECE_BYTES):
            digest.update(piece)
            size_bytes += len(piece)
    return digest.hexdigest(), size_bytes


def _pieces(stream: IO[bytes], limits: InputLimits) -> Iterator[tuple[bytes | None, int]]:
    """Each line, or None for one over the limit, with the number of bytes it takes in the file."""
    size = limits.max_line_bytes + len(b"\r\n")
    while data := stream.readline(size):
        line_bytes = len(data)
        is_whole = data.endswith(b"\n") or line_bytes < size
        if is_whole and len(data.rstrip(b"\r\n")) <= limits.max_line_bytes:
            yield data, line_bytes
            continue
        while not data.endswith(b"\n") and line_bytes <= limits.max_file_bytes:
            if not (data := stream.readline(size)):
                break
            line_bytes += len(data)
        yield None, line_bytes
