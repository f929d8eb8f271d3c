"""How a lease or a chunk ends without all of its results: lost, crashed, cancelled, given up.

Each function works inside the caller's transaction, which has locked the chunk.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    exists,
    func,
    literal,
    null,
    select,
    update,
)

from models.clock import db_now
from models.generation import Refusal
from models.states import AttemptOutcome, ChunkState, ResultStatus
from models.store.commit_log import log_commit
from models.store.joins import whole_batch_join
from models.store.transitions import insert_new, move_chunks
from models.store.views import Chunk
from models.tables import attempts, batches, chunks, requests, results

OPEN_STATES = (ChunkState.PENDING, ChunkState.DISPATCHED, ChunkState.LEASED)

CANCELLED = Refusal(
    code="batch_cancelled",
    message="the batch was cancelled before this request ran",
    http_status=None,
)
EXPIRED = Refusal(
    code="batch_expired",
    message="the batch expired before this request ran",
    http_status=None,
)


def close_attempt(
    connection: Connection,
    chunk: Chunk,
    outcome: AttemptOutcome,
    error: str | None = None,
) -> None:
    """Write how the chunk's present lease ended, once."""
    connection.execute(
        update(attempts)
        .where(attempts.c.chunk_id == chunk.id, attempts.c.epoch == chunk.epoch)
        .where(attempts.c.ended_at.is_(None))
        .values(ended_at=db_now(), outcome=str(outcome), error=error)
    )


def unlease(connection: Connection, chunk: Chunk, target: ChunkState, **values: Any) -> None:
    """End the chunk's present lease: its holder can write nothing from now on."""
    connection.execute(
        move_chunks(target)
        .where(chunks.c.id == chunk.id, chunks.c.epoch == chunk.epoch)
        .values(worker_id=None, lease_until=None, running_idx=None, dispatched_at=None, **values)
    )


def quarantine(connection: Connection, chunk: Chunk, crashes: int, reason: str) -> None:
    """Give the chunk up after too many crashes: what is missing ends as `worker_lost`."""
    unlease(connection, chunk, ChunkState.QUARANTINED, crashes=crashes)
    message = f"the chunk was given up after {crashes} crashes, the last one: {reason}"
    refusal = Refusal(code="worker_lost", message=message, http_status=None)
    fail_missing(connection, chunk.batch_id, refusal, chunk_id=chunk.id)


def lose_lease(connection: Connection, chunk: Chunk, *, max_crashes: int) -> int | None:
    """Book a lease that ran out; returns the chunk's crashes from now on, None: it has ended.

    The caller moves a chunk that has not ended, and writes the crashes. A request that was noted
    as running bears the loss alone; when it has its result, nobody does. The chunk has ended when
    it is given up, or done because no other request of it was left.
    """
    reason = f"worker {chunk.worker_id} did not renew its lease"
    close_attempt(connection, chunk, AttemptOutcome.LOST, reason)
    if chunk.running_idx is not None:
        message = f"the request ran alone, after earlier crashes, when {reason}"
        refusal = Refusal(code="worker_lost", message=message, http_status=None)
        fail_missing(connection, chunk.batch_id, refusal, idx=chunk.running_idx)
        if _is_missing_any(connection, chunk):
            return chunk.crashes
        unlease(connection, chunk, ChunkState.DONE)
        return None
    if chunk.crashes + 1 < max_crashes:
        return chunk.crashes + 1
    quarantine(connection, chunk, chunk.crashes + 1, reason)
    return None


def fail_missing(
    connection: Connection,
    batch_id: str,
    refusal: Refusal,
    *,
    chunk_id: int | None = None,
    idx: int | None = None,
) -> int:
    """Insert an error result for every request without one, and count them."""
    columns = {
        "batch_id": requests.c.batch_id,
        "idx": requests.c.idx,
        "status": literal(str(ResultStatus.ERROR)),
        "error_code": literal(refusal.code),
        "error_message": literal(refusal.message),
        "prompt_tokens": literal(0),
        "cached_prompt_tokens": literal(0),
        "output_tokens": literal(0),
        "epoch": literal(0),
        "attempt": literal(0),
        "http_status": null() if refusal.http_status is None else literal(refusal.http_status),
        "created_at": db_now(),
    }
    missing = (
        select(*columns.values())
        .where(requests.c.batch_id == batch_id, ~has_result())
        .order_by(requests.c.idx)
    )
    if chunk_id is not None:
        missing = missing.where(requests.c.chunk_id == chunk_id)
    if idx is not None:
        missing = missing.where(requests.c.idx == idx)
    inserting = insert_new(connection.dialect.name, results, ("batch_id", "idx"))
    filling = inserting.from_select(list(columns), missing).returning(results.c.idx)
    with whole_batch_join(connection):
        failed = sorted(connection.execute(filling).scalars())
    connection.execute(
        update(batches)
        .where(batches.c.id == batch_id)
        .values(n_failed=batches.c.n_failed + len(failed))
    )
    log_commit(connection, batch_id, failed)
    return len(failed)


def has_result() -> ColumnElement[bool]:
    """Whether the request of the enclosing query is final."""
    same = and_(results.c.batch_id == requests.c.batch_id, results.c.idx == requests.c.idx)
    return exists().where(same).correlate(requests)


def _is_missing_any(connection: Connection, chunk: Chunk) -> bool:
    missing = select(requests.c.idx).where(requests.c.chunk_id == chunk.id, ~has_result())
    return connection.execute(missing.limit(1)).first() is not None


def count_open_chunks(connection: Connection, batch_id: str) -> int:
    """Chunks of the batch that are not terminal; once 0, it stays 0."""
    statement = select(func.count()).where(
        chunks.c.batch_id == batch_id, chunks.c.state.in_(OPEN_STATES)
    )
    return int(connection.execute(statement).scalar_one())
