"""An input file on its way to a server: as it lies there, or made OpenAI's JSONL while it is sent.

Nothing is held in memory or written to the disk. Must not know HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, cast

from cli.submission import InputOptions, open_lines
from models.wire.input import InputLimits
from models.wire.raw_lines import check_input_file, file_errors
from models.wire.upload_lines import upload_pieces
from models.wire.uploads import is_uploadable

if TYPE_CHECKING:
    from models.model_key import ModelKey
    from models.settings import Settings


@dataclass(frozen=True, slots=True)
class Upload:
    """What to send: `stream` is read from its beginning as often as needed."""

    name: str
    endpoint: str
    stream: IO[bytes]


@contextmanager
def open_upload(
    settings: Settings, given: InputOptions, model: ModelKey, name_is_enough: bool
) -> Iterator[Upload]:
    """The file for batches of `model`; `name_is_enough`: the server takes it without weights.

    Raises InputFileError here and while the stream is read.
    """
    limits, path = InputLimits.from_settings(settings), given.path
    check_input_file(path, limits)
    endpoint = open_lines(settings, given, model)[0]
    names = {str(model), model.name} if name_is_enough else {str(model)}
    if given.is_plain and is_uploadable(path, limits, names):
        with file_errors(path), path.open("rb") as stream:
            yield Upload(path.name, endpoint, stream)
        return

    def pieces() -> Iterator[bytes]:
        yield from upload_pieces(open_lines(settings, given, model)[1], str(model))

    yield Upload(f"{path.name}.jsonl", endpoint, cast("IO[bytes]", _Pieces(pieces)))


class _Pieces:
    """As much of a file as an upload asks for; `make` gives its contents from the beginning."""

    def __init__(self, make: Callable[[], Iterator[bytes]]) -> None:
        self._make = make
        self._pieces = make()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Back to the beginning: its size is not known, so there is no other place."""
        if offset or whence:
            raise OSError("the size is not known before the end")
        self._pieces = self._make()
        return 0

    def read(self, _size: int = -1) -> bytes:
        """The next piece, whatever its size; empty at the end."""
        return next(self._pieces, b"")
