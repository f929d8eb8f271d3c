"""Batches: look up, list, cancel, finalize.

Cancelling first marks the batch alone and then its chunks: each step may be repeated, and the
sweeper does so when a process died in between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select, update

from models.clock import db_now
from models.database import Database
from models.errors import NotFoundError
from models.states import (
    AttemptOutcome,
    BatchState,
    ChunkState,
    ResultStatus,
    check_transition,
)
from models.store.batch_ends import end_batch
from models.store.endings import (
    CANCELLED,
    EXPIRED,
    OPEN_STATES,
    close_attempt,
    count_open_chunks,
    fail_missing,
    unlease,
)
from models.store.rows import batch_view, chunk_view
from models.store.transitions import move_batches
from models.store.views import DEFAULT_TENANT, Batch, Chunk
from models.tables import batches, chunks, results

_UNCLAIMED: Final = (ChunkState.PENDING, ChunkState.DISPATCHED)


def get_batch(database: Database, batch_id: str, tenant_id: str = DEFAULT_TENANT) -> Batch:
    """The batch as it is now; raises NotFoundError, also for another tenant's batch."""
    with database.read() as connection:
        row = connection.execute(_select_batch(batch_id, tenant_id)).mappings().first()
    if row is None:
        raise NotFoundError(f"there is no batch {batch_id}: `nightshift status` lists them")
    return batch_view(row)


def find_batches(database: Database, batch_ids: Collection[str]) -> dict[str, Batch]:
    """These batches as they are now, of any tenant; unknown ones are left out."""
    statement = select(batches).where(batches.c.id.in_(batch_ids))
    with database.read() as connection:
        found = [batch_view(row) for row in connection.execute(statement).mappings()]
    return {batch.id: batch for batch in found}


def find_batch(
    database: Database, idempotency_key: str, tenant_id: str = DEFAULT_TENANT
) -> Batch | None:
    """The batch that was submitted with this key, if any."""
    by_key = (batches.c.tenant_id == tenant_id, batches.c.idempotency_key == idempotency_key)
    with database.read() as connection:
        row = connection.execute(select(batches).where(*by_key)).mappings().first()
    return None if row is None else batch_view(row)


def list_batches(
    database: Database,
    *,
    tenant_id: str = DEFAULT_TENANT,
    limit: int = 20,
    after: str | None = None,
) -> list[Batch]:
    """Newest first; `after` is the id of the last batch seen (NotFoundError when unknown)."""
    statement = select(batches).where(batches.c.tenant_id == tenant_id)
    if after is not None:
        last = get_batch(database, after, tenant_id)
        created = batches.c.created_at
        # What comes first says where in the index the page begins.
        statement = statement.where(created <= last.created_at)
        statement = statement.where(or_(created < last.created_at, batches.c.id < last.id))
    statement = statement.order_by(batches.c.created_at.desc(), batches.c.id.desc()).limit(limit)
    with database.read() as connection:
        return [batch_view(row) for row in connection.execute(statement).mappings()]


def list_chunks(database: Database, batch_id: str) -> list[Chunk]:
    """The batch's chunks in their order."""
    statement = select(chunks).where(chunks.c.batch_id == batch_id).order_by(chunks.c.number)
    with database.read() as connection:
        return [chunk_view(row) for row in connection.execute(statement).mappings()]


def cancel_batch(database: Database, batch_id: str, tenant_id: str = DEFAULT_TENANT) -> Batch:
    """Stop the batch; what is finished is kept, and holders of leases learn of it when they renew.

    Cancelling twice is the same as once. Raises NotFoundError, and StateError for a batch that
    ended otherwise.
    """
    get_batch(database, batch_id, tenant_id)

    def mark(connection: Connection) -> None:
        statement = move_batches(BatchState.CANCELLING).where(batches.c.id == batch_id)
        connection.execute(statement)

    database.transact(mark, replayable=True)
    batch = get_batch(database, batch_id, tenant_id)
    if batch.state not in {BatchState.CANCELLING, BatchState.CANCELLED}:
        check_transition(batch.state, BatchState.CANCELLING)
    return finalize_batch(database, batch_id)


def finalize_batch(database: Database, batch_id: str) -> Batch:
    """Close the batch if nothing is left to do for it, else leave it as it is.

    in_progress → finalizing → completed, or cancelling → cancelled; counters are recounted from
    the results. Idempotent, and safe at any time from any process.
    """
    # A look without the write lock: nearly always there is nothing to close yet.
    with database.read() as connection:
        state = _read_state(connection, batch_id)
        n_open = count_open_chunks(connection, batch_id)
    if state == BatchState.CANCELLING:
        _run(database, _cancel_unclaimed, batch_id)
    elif state == BatchState.FINALIZING or (state == BatchState.IN_PROGRESS and n_open == 0):
        _run(database, _start_finalizing, batch_id)
        _run(database, _complete, batch_id)
    with database.read() as connection:
        row = connection.execute(_select_batch(batch_id)).mappings().first()
    if row is None:
        raise NotFoundError(f"there is no batch {batch_id}: `nightshift status` lists them")
    return batch_view(row)


def expire_batch(connection: Connection, batch_id: str) -> bool:
    """End an overdue batch: holders are fenced off, what never ran gets an error result."""
    for chunk in _lock_chunks(connection, batch_id, OPEN_STATES):
        _cancel_chunk(connection, chunk, "the batch expired")
    state = _lock_batch(connection, batch_id)
    if state != BatchState.IN_PROGRESS:
        return False
    fail_missing(connection, batch_id, EXPIRED)
    _recount(connection, batch_id)
    return end_batch(connection, batch_id, BatchState.EXPIRED)


def _run(database: Database, step: Callable[[Connection, str], None], batch_id: str) -> None:
    """One step in a transaction of its own; each may be repeated at will."""
    database.transact(lambda connection: step(connection, batch_id), replayable=True)


def _cancel_unclaimed(connection: Connection, batch_id: str) -> None:
    """Of a cancelling batch: cancel what nobody holds, and close it when nobody holds anything."""
    if _read_state(connection, batch_id) != BatchState.CANCELLING:
        return
    for chunk in _lock_chunks(connection, batch_id, _UNCLAIMED):
        _cancel_chunk(connection, chunk, "the batch was cancelled")
    if _lock_batch(connection, batch_id) != BatchState.CANCELLING:
        return
    if count_open_chunks(connection, batch_id) == 0:
        fail_missing(connection, batch_id, CANCELLED)
        _recount(connection, batch_id)
        end_batch(connection, batch_id, BatchState.CANCELLED)


def _start_finalizing(connection: Connection, batch_id: str) -> None:
    """The first of two steps: from here on the batch can neither be cancelled nor expire."""
    if count_open_chunks(connection, batch_id) == 0:
        counting = select(func.count()).where(results.c.batch_id == batch_id)
        is_complete = batches.c.n_total == counting.scalar_subquery()
        statement = move_batches(BatchState.FINALIZING).where(batches.c.id == batch_id)
        connection.execute(statement.where(is_complete))


def _complete(connection: Connection, batch_id: str) -> None:
    if _lock_batch(connection, batch_id) == BatchState.FINALIZING:
        _recount(connection, batch_id)
        end_batch(connection, batch_id, BatchState.COMPLETED)


def _recount(connection: Connection, batch_id: str) -> None:
    """Set the counters from the results themselves."""
    is_ok = results.c.status == str(ResultStatus.OK)
    names = ("prompt_tokens", "cached_prompt_tokens", "output_tokens")
    counted = connection.execute(
        select(
            func.count().filter(is_ok).label("n_completed"),
            func.count().filter(~is_ok).label("n_failed"),
            *(func.coalesce(func.sum(results.c[name]), 0).label(name) for name in names),
        ).where(results.c.batch_id == batch_id)
    ).mappings()
    connection.execute(update(batches).where(batches.c.id == batch_id).values(**counted.one()))


def _cancel_chunk(connection: Connection, chunk: Chunk, reason: str) -> None:
    close_attempt(connection, chunk, AttemptOutcome.RELEASED, reason)
    unlease(connection, chunk, ChunkState.CANCELLED)


def _lock_chunks(
    connection: Connection, batch_id: str, states: tuple[ChunkState, ...]
) -> list[Chunk]:
    """The batch's chunks in these states, locked in one order by everybody."""
    statement = (
        select(chunks)
        .where(chunks.c.batch_id == batch_id, chunks.c.state.in_(states))
        .order_by(chunks.c.id)
        .with_for_update()
    )
    return [chunk_view(row) for row in connection.execute(statement).mappings()]


def _lock_batch(connection: Connection, batch_id: str) -> str | None:
    """The batch's state, which nobody else can change until the transaction ends."""
    statement = select(batches.c.state).where(batches.c.id == batch_id).with_for_update()
    return connection.execute(statement).scalar()


def _read_state(connection: Connection, batch_id: str) -> str | None:
    return connection.execute(select(batches.c.state).where(batches.c.id == batch_id)).scalar()


def _select_batch(batch_id: str, tenant_id: str | None = None) -> Select[*tuple[Any, ...]]:
    statement = select(batches).where(batches.c.id == batch_id)
    return statement if tenant_id is None else statement.where(batches.c.tenant_id == tenant_id)


def wants_results() -> ColumnElement[bool]:
    """Whether chunks of the batch of the enclosing query are to be claimed."""
    due = or_(batches.c.expires_at.is_(None), batches.c.expires_at > db_now())
    in_progress = batches.c.state == str(BatchState.IN_PROGRESS)
    return and_(in_progress, batches.c.paused_at.is_(None), due)
