"""Submitting: file, batch, requests and chunks in one transaction, so that nothing is half there.

Lines are streamed in. Must not know file formats.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from models.clock import db_now
from models.database import Database
from models.errors import IdempotencyConflict, InputFileError
from models.states import BatchState
from models.store.batches import finalize_batch, get_batch
from models.store.plan import plan_chunks
from models.store.prompts import prefix_key, prompt_chars, prompt_value
from models.store.rows import no_result, refusal_columns, storable
from models.store.transitions import insert_new, move_batches
from models.store.views import Batch, BatchError, Submission, Submitted
from models.tables import batches, files, requests, results
from models.wire.lines import AcceptedLine, Line, RefusedLine

_LINES_PER_INSERT: Final = 1000
_MAX_ERRORS: Final = 100  # kept of a batch that failed validation
_NOT_JSON: Final = "invalid_json_line"


class _AlreadySubmitted(Exception):
    """Rolls back: another submission with this idempotency key was faster."""


@dataclass(slots=True)
class _Tally:
    """What was streamed in so far."""

    accepted: int = 0
    refused: int = 0
    not_json: int = 0
    errors: list[BatchError] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.accepted + self.refused


def submit_batch(database: Database, submission: Submission, lines: Iterable[Line]) -> Submitted:
    """Store a batch and plan it; `lines` is read once, and an error from it stores nothing.

    The same idempotency key with the same body gives the batch that is already there. A file of
    which no line is JSON is stored as a `failed` batch with its errors.
    Raises IdempotencyConflict for the same key with another body, InputFileError when there is
    no line at all or two accepted lines have one custom_id.
    """
    if (known := _find(database, submission)) is not None:
        return Submitted(known, created=False)
    batch_id = new_id("batch_")
    try:
        tally = _store(database, submission, lines, batch_id)
    except _AlreadySubmitted:
        if (known := _find(database, submission)) is not None:
            return Submitted(known, created=False)
        raise
    except IntegrityError as exc:
        if "custom_id" not in str(exc.orig):
            raise
        raise InputFileError(
            "two lines have the same custom_id: make them unique", code="duplicate_custom_id"
        ) from exc
    if tally.accepted == 0:
        finalize_batch(database, batch_id)  # every line was refused: there is nothing to run
    return Submitted(get_batch(database, batch_id, submission.tenant_id), created=True)


def new_id(prefix: str) -> str:
    """An id nobody can guess: the prefix and 32 hexadecimal digits."""
    return prefix + uuid.uuid4().hex


def batch_row(submission: Submission, batch_id: str, file_id: str) -> dict[str, Any]:
    """The row of a batch that has nothing yet."""
    window_s = submission.completion_window_s
    return {
        "id": batch_id,
        "tenant_id": submission.tenant_id,
        "file_id": file_id,
        "idempotency_key": submission.idempotency_key,
        "body_sha256": submission.body_sha256,
        "endpoint": submission.endpoint,
        "model_name": submission.model.name,
        "weights": str(submission.model.weights),
        "state": str(BatchState.VALIDATING),
        "priority": submission.priority,
        "seed": secrets.randbits(63) if submission.seed is None else submission.seed,
        "completion_window_s": window_s,
        "metadata": dict(submission.metadata),
        "n_total": 0,
        "n_completed": 0,
        "n_failed": 0,
        "prompt_tokens": 0,
        "cached_prompt_tokens": 0,
        "output_tokens": 0,
        "created_at": db_now(),
        "expires_at": None if window_s is None else db_now() + window_s,
    }


def _find(database: Database, submission: Submission) -> Batch | None:
    if submission.idempotency_key is None:
        return None
    with database.read() as connection:
        row = connection.execute(
            select(batches.c.id, batches.c.body_sha256).where(
                batches.c.tenant_id == submission.tenant_id,
                batches.c.idempotency_key == submission.idempotency_key,
            )
        ).first()
    if row is None:
        return None
    if row.body_sha256 != submission.body_sha256:
        raise IdempotencyConflict(
            f"the idempotency key {submission.idempotency_key!r} was used for batch {row.id} with "
            "other content: choose a new key"
        )
    return get_batch(database, row.id, submission.tenant_id)


def _store(
    database: Database, submission: Submission, lines: Iterable[Line], batch_id: str
) -> _Tally:
    tally = _Tally()
    with database.begin() as connection:
        _insert_batch(connection, submission, batch_id)
        for group in _groups(lines):
            _insert_lines(connection, batch_id, group, tally)
        if tally.total == 0:
            raise InputFileError("the input has no requests", code="empty_file")
        limit = submission.chunk_requests
        plan_chunks(connection, batch_id, n_requests=tally.accepted, limit=limit)
        _seal(connection, batch_id, tally)
    return tally


def _insert_batch(connection: Connection, submission: Submission, batch_id: str) -> None:
    file_id = new_id("file-")
    connection.execute(insert(files).values(_file_row(submission, file_id)))
    row = batch_row(submission, batch_id, file_id)
    statement = insert_new(
        connection.dialect.name, batches, ("tenant_id", "idempotency_key")
    ).values(row)
    if connection.execute(statement).rowcount == 0:
        raise _AlreadySubmitted


def _file_row(submission: Submission, file_id: str) -> dict[str, Any]:
    return {
        "id": file_id,
        "tenant_id": submission.tenant_id,
        "name": submission.file_name,
        "purpose": "batch",
        "n_bytes": submission.file_bytes,
        "sha256": submission.body_sha256,
        "created_at": db_now(),
    }


def _groups(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """A bounded number of lines at a time: a file never lies in memory as a whole."""
    remaining = iter(lines)
    while group := list(islice(remaining, _LINES_PER_INSERT)):
        yield group


def _insert_lines(connection: Connection, batch_id: str, lines: list[Line], tally: _Tally) -> None:
    request_rows: list[dict[str, Any]] = []
    result_rows: list[dict[str, Any]] = []
    for line in lines:
        key = {"batch_id": batch_id, "idx": tally.total}
        if isinstance(line, AcceptedLine):
            request_rows.append(key | _accepted_row(line))
            tally.accepted += 1
        else:
            request_rows.append(key | _refused_row(line))
            result_rows.append(no_result() | key | refusal_columns(line.refusal))
            _count_refused(tally, line)
    connection.execute(insert(requests), request_rows)
    if result_rows:
        at_once = {"epoch": 0, "attempt": 0, "created_at": db_now()}
        connection.execute(insert(results).values(at_once), result_rows)


def _accepted_row(line: AcceptedLine) -> dict[str, Any]:
    return {
        "line_number": line.line_number,
        "accepted": True,
        "custom_id": line.custom_id,
        "prompt_kind": line.prompt.kind,
        "prompt": prompt_value(line.prompt),
        "params": line.params.model_dump(mode="json", exclude_defaults=True),
        "prefix_key": prefix_key(line.prompt),
        "prompt_chars": prompt_chars(line.prompt),
    }


def _refused_row(line: RefusedLine) -> dict[str, Any]:
    return {
        "line_number": line.line_number,
        "accepted": False,
        "custom_id": None if line.custom_id is None else storable(line.custom_id),
        "prompt_kind": None,
        "prompt": None,
        "params": None,
        "prefix_key": None,
        "prompt_chars": None,
    }


def _count_refused(tally: _Tally, line: RefusedLine) -> None:
    refusal = line.refusal
    tally.refused += 1
    tally.not_json += refusal.code == _NOT_JSON
    if len(tally.errors) < _MAX_ERRORS:
        message = storable(refusal.message)
        tally.errors.append(
            BatchError(
                code=refusal.code, message=message, param=refusal.param, line=line.line_number
            )
        )


def _seal(connection: Connection, batch_id: str, tally: _Tally) -> None:
    counts = {"n_total": tally.total, "n_failed": tally.refused}
    of_batch = batches.c.id == batch_id
    connection.execute(update(batches).where(of_batch).values(counts))
    if tally.not_json == tally.total:
        errors = [asdict(error) for error in tally.errors]
        connection.execute(move_batches(BatchState.FAILED).where(of_batch).values(errors=errors))
    else:
        connection.execute(move_batches(BatchState.IN_PROGRESS).where(of_batch))
