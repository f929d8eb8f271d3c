"""Submitting: file, batch, requests and chunks in one transaction, so that nothing is half there.

Lines are streamed in. Must not know file formats.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, insert, update
from sqlalchemy.exc import IntegrityError

from models.clock import db_now
from models.database import Database
from models.errors import InputFileError
from models.states import BatchState
from models.store.batch_ends import end_batch
from models.store.batches import finalize_batch, get_batch
from models.store.commit_log import log_commit
from models.store.forecast import model_capacity
from models.store.lines import Tally, grouped, insert_lines
from models.store.plan import plan_chunks
from models.store.repeats import find_by_key
from models.store.transitions import insert_new, move_batches
from models.store.views import Batch, Submission, Submitted
from models.tables import batches, files
from models.wire.lines import Line


class _AlreadySubmitted(Exception):
    """Rolls back: another submission with this idempotency key was faster."""


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
    """The row of a submitted batch that has nothing yet."""
    values = batch_values(
        batch_id=batch_id,
        tenant_id=submission.tenant_id,
        file_id=file_id,
        idempotency_key=submission.idempotency_key,
        body_sha256=submission.body_sha256,
        endpoint=submission.endpoint,
        priority=submission.priority,
        completion_window_s=submission.completion_window_s,
        metadata=submission.metadata,
    )
    model = submission.model
    named = {"model_name": model.name, "weights": str(model.weights)}
    return values | named | ({} if submission.seed is None else {"seed": submission.seed})


def batch_values(
    *,
    batch_id: str,
    tenant_id: str,
    file_id: str,
    idempotency_key: str | None,
    body_sha256: str,
    endpoint: str,
    priority: int,
    completion_window_s: float | None,
    metadata: Mapping[str, str],
) -> dict[str, Any]:
    """The row of a batch that has no model and no requests yet."""
    window_s = completion_window_s
    return {
        "id": batch_id,
        "tenant_id": tenant_id,
        "file_id": file_id,
        "idempotency_key": idempotency_key,
        "body_sha256": body_sha256,
        "endpoint": endpoint,
        "model_name": "",
        "weights": "",
        "state": str(BatchState.VALIDATING),
        "priority": priority,
        "seed": secrets.randbits(63),
        "completion_window_s": window_s,
        "metadata": dict(metadata),
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
    tenant_id, key = submission.tenant_id, submission.idempotency_key
    if key is None:
        return None
    with database.read() as connection:
        found = find_by_key(connection, tenant_id, key, submission.body_sha256)
    return None if found is None else get_batch(database, found, tenant_id)


def _store(
    database: Database, submission: Submission, lines: Iterable[Line], batch_id: str
) -> Tally:
    tally, capacity = Tally(), model_capacity(database, submission.model)
    with database.begin() as connection:
        _insert_batch(connection, submission, batch_id)
        for group in grouped(lines):
            insert_lines(connection, batch_id, tally.total, group)
            for line in group:
                tally.count(line)
        if tally.total == 0:
            raise InputFileError("the input has no requests", code="empty_file")
        plan_chunks(
            connection,
            batch_id,
            n_requests=tally.accepted,
            limit=submission.chunk_requests,
            capacity=capacity,
        )
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
        "sha256": submission.file_sha256,
        "created_at": db_now(),
    }


def _seal(connection: Connection, batch_id: str, tally: Tally) -> None:
    counts = {"n_total": tally.total, "n_failed": len(tally.refused)}
    of_batch = batches.c.id == batch_id
    connection.execute(update(batches).where(of_batch).values(counts))
    log_commit(connection, batch_id, tally.refused)
    end_validation(connection, batch_id, tally)


def end_validation(connection: Connection, batch_id: str, tally: Tally) -> None:
    """All lines are stored and planned: the batch runs, or has failed with its errors."""
    if tally.is_hopeless:
        errors = [asdict(error) for error in tally.errors]
        end_batch(connection, batch_id, BatchState.FAILED, errors=errors)
    else:
        running = move_batches(BatchState.IN_PROGRESS).where(batches.c.id == batch_id)
        connection.execute(running)
