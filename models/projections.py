"""Output and error files of a batch: not stored anywhere, but streamed from its results.

The same rows always give the same bytes, so a digest can be told and a range be read. Must not
know HTTP.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from models.database import Database
from models.errors import NotFoundError
from models.states import ResultStatus
from models.store.batches import get_batch
from models.store.canaries import CanaryFigures
from models.store.commit_log import follow_results
from models.store.files import StoredFile, get_file, keep_output_file
from models.store.results import stream_records
from models.store.speed import BatchSpeed, batch_speeds
from models.store.views import Batch, RequestRecord
from models.wire.json_lines import json_line
from models.wire.output import Json, batch_object, result_line

PIECE_BYTES: Final = 256 << 10
PURPOSE: Final = "batch_output"


class OutputKind(StrEnum):
    """Which of a batch's requests a file holds."""

    OUTPUT = "output"
    ERRORS = "errors"

    @property
    def status(self) -> ResultStatus:
        """How those requests ended."""
        return ResultStatus.OK if self is OutputKind.OUTPUT else ResultStatus.ERROR


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One of the two files of a batch."""

    batch_id: str
    kind: OutputKind

    @property
    def id(self) -> str:
        """`file-<the batch's digits>-output`, or `-errors`."""
        return f"file-{self.batch_id.removeprefix('batch_')}-{self.kind}"

    @property
    def name(self) -> str:
        """What the file is called where it is downloaded."""
        return f"{self.batch_id}_{self.kind}.jsonl"

    @classmethod
    def of_id(cls, file_id: str) -> Self | None:
        """The output file of that id; None for the id of an uploaded file."""
        digits, _, kind = file_id.removeprefix("file-").rpartition("-")
        return cls(f"batch_{digits}", OutputKind(kind)) if kind in set(OutputKind) else None


def output_file(batch: Batch, kind: OutputKind) -> OutputFile | None:
    """The file of an ended batch, or None while it runs or when it would be empty."""
    n_lines = batch.completed if kind is OutputKind.OUTPUT else batch.failed
    return OutputFile(batch.id, kind) if batch.is_terminal and n_lines else None


def describe_batch(database: Database, batch: Batch) -> Json:
    """The batch as everybody is shown it: with its speed, and its files once it has ended."""
    return describe_batches(database, [batch])[0]


def describe_canary(figures: CanaryFigures) -> Json:
    """A model's newest canary as the API shows it."""
    return {
        "id": str(figures.model),
        "object": "canary",
        "measured_at": int(figures.measured_at),
        "expected": figures.n_expected,
        "exact": figures.n_exact,
        "tokens_per_second": figures.output_tokens_per_second,
        "earlier_exact_ratio": figures.earlier_exact_ratio,
        "earlier_tokens_per_second": figures.earlier_tokens_per_second,
    }


def describe_batches(database: Database, found: Sequence[Batch]) -> list[Json]:
    """Several batches as everybody is shown them."""
    speeds = batch_speeds(database, found)
    return [_described(batch, speeds[batch.id]) for batch in found]


def _described(batch: Batch, speed: BatchSpeed) -> Json:
    files = {kind: output_file(batch, kind) for kind in OutputKind}
    ids = {kind: None if file is None else file.id for kind, file in files.items()}
    return batch_object(
        batch,
        output_file_id=ids[OutputKind.OUTPUT],
        error_file_id=ids[OutputKind.ERRORS],
        eta_s=speed.eta_s,
        tokens_per_second=speed.tokens_per_second,
    )


def line_bytes(record: RequestRecord, batch: Batch) -> bytes:
    """One line of either file, with its line end."""
    return f"{json_line(result_line(record, batch))}\n".encode()


def describe_output(database: Database, tenant_id: str, file: OutputFile) -> StoredFile:
    """The file with its size and digest, counted once and kept. Raises NotFoundError."""
    batch = get_batch(database, file.batch_id, tenant_id)
    if output_file(batch, file.kind) is None:
        raise NotFoundError(f"there is no file {file.id}: the batch has not ended, or had no line")
    try:
        return get_file(database, tenant_id, file.id)
    except NotFoundError:
        digest, n_bytes = hashlib.sha256(), 0
        for piece in read_output(database, batch, file.kind):
            digest.update(piece)
            n_bytes += len(piece)
        keep_output_file(
            database,
            tenant_id,
            file.id,
            name=file.name,
            purpose=PURPOSE,
            n_bytes=n_bytes,
            sha256=digest.hexdigest(),
        )
        return get_file(database, tenant_id, file.id)  # raises when it was deleted before


def read_output(
    database: Database, batch: Batch, kind: OutputKind, *, start: int = 0, stop: int | None = None
) -> Iterator[bytes]:
    """The file's bytes from `start` up to `stop`, in pieces; made anew from the first line on."""
    position = 0
    records = stream_records(database, batch.id, status=kind.status)
    for piece in _pieces(line_bytes(record, batch) for record in records):
        end = position + len(piece)
        if end > start:
            last = len(piece) if stop is None else min(len(piece), stop - position)
            yield piece[max(0, start - position) : last]
        position = end
        if stop is not None and position >= stop:
            return


def read_followed(database: Database, batch: Batch, *, after: int, limit: int) -> Iterator[bytes]:
    """The lines of both files in the order of their commits, each with its `cursor`, in pieces."""
    return _pieces(
        f"{json_line({**result_line(record, batch), 'cursor': cursor})}\n".encode()
        for cursor, record in follow_results(database, batch.id, after=after, limit=limit)
    )


def _pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    piece = bytearray()
    for line in lines:
        piece += line
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)
