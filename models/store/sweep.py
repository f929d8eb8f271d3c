"""The sweeper: repairs whatever a process that died has left; any number may run at once."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, Select, or_, select

from models.clock import db_now
from models.database import Database
from models.states import BatchState, ChunkState
from models.store.batches import expire_batch, finalize_batch
from models.store.endings import OPEN_STATES, lose_lease, unlease
from models.store.leases import is_wanted
from models.store.rows import chunk_view
from models.store.transitions import move_chunks
from models.store.validation import fail_overdue_validations
from models.store.views import Chunk, SweepReport
from models.tables import batches, chunks

_CHUNKS_PER_TRANSACTION: Final = 100


def sweep(database: Database, *, dispatch_timeout_s: float, max_crashes: int) -> SweepReport:
    """Repair everything once; each step is its own transaction, and repeating it changes nothing.

    Leases that ran out: pending again and charged a crash, quarantined at `max_crashes`, cancelled
    with their batch, or done when the one to blame was the last. Dispatches that nobody claimed:
    pending again. Batches that are overdue, cancelling or finished: closed.
    """
    ended = _end_expired_leases(database, max_crashes)
    lost_dispatches = database.transact(
        lambda connection: _return_lost_dispatches(connection, dispatch_timeout_s)
    )
    return SweepReport(
        expired_leases=len(ended),
        quarantined_chunks=ended.count(ChunkState.QUARANTINED),
        lost_dispatches=lost_dispatches,
        closed_batches=(
            *fail_overdue_validations(database),
            *_expire_overdue(database),
            *_close_finished(database),
        ),
    )


def _end_expired_leases(database: Database, max_crashes: int) -> list[ChunkState]:
    """Where each chunk with an expired lease went."""
    ended: list[ChunkState] = []
    while True:
        group = database.transact(lambda connection: _end_some(connection, max_crashes))
        ended += group
        if len(group) < _CHUNKS_PER_TRANSACTION:
            return ended


def _end_some(connection: Connection, max_crashes: int) -> list[ChunkState]:
    # In the order of batches: their rows are locked one after the other when chunks are given up.
    statement = (
        select(chunks)
        .where(chunks.c.state == str(ChunkState.LEASED), chunks.c.lease_until < db_now())
        .order_by(chunks.c.batch_id, chunks.c.id)
        .limit(_CHUNKS_PER_TRANSACTION)
        .with_for_update(skip_locked=True)
    )
    expired = [chunk_view(row) for row in connection.execute(statement).mappings()]
    return [_end_lease(connection, chunk, max_crashes) for chunk in expired]


def _end_lease(connection: Connection, chunk: Chunk, max_crashes: int) -> ChunkState:
    crashes = lose_lease(connection, chunk, max_crashes=max_crashes)
    if crashes is None:
        ended = select(chunks.c.state).where(chunks.c.id == chunk.id)
        return ChunkState(connection.execute(ended).scalar_one())
    wanted = is_wanted(connection, chunk.batch_id)
    target = ChunkState.PENDING if wanted else ChunkState.CANCELLED
    unlease(connection, chunk, target, crashes=crashes)
    return target


def _return_lost_dispatches(connection: Connection, dispatch_timeout_s: float) -> int:
    lost = (
        select(chunks.c.id)
        .where(chunks.c.state == str(ChunkState.DISPATCHED))
        .where(chunks.c.dispatched_at < db_now() - dispatch_timeout_s)
        .order_by(chunks.c.id)
        .with_for_update(skip_locked=True)
    )
    ids = list(connection.execute(lost).scalars())
    if not ids:
        return 0
    statement = move_chunks(ChunkState.PENDING).where(chunks.c.id.in_(ids))
    return connection.execute(statement.values(dispatched_at=None)).rowcount


def _expire_overdue(database: Database) -> list[str]:
    overdue = select(batches.c.id).where(
        batches.c.state == str(BatchState.IN_PROGRESS), batches.c.expires_at <= db_now()
    )
    closed = []
    for batch_id in _ids(database, overdue):
        if _expire(database, batch_id):
            closed.append(batch_id)
    return closed


def _expire(database: Database, batch_id: str) -> bool:
    # Finished in time and only not yet counted is not expired.
    if finalize_batch(database, batch_id).is_terminal:
        return True
    return database.transact(lambda connection: expire_batch(connection, batch_id))


def _close_finished(database: Database) -> list[str]:
    """Close batches that were left cancelling, finalizing, or in progress with nothing open."""
    is_open = (
        select(chunks.c.id)
        .where(chunks.c.batch_id == batches.c.id, chunks.c.state.in_(OPEN_STATES))
        .exists()
    )
    started = batches.c.state.in_((BatchState.CANCELLING, BatchState.FINALIZING))
    finished = (batches.c.state == str(BatchState.IN_PROGRESS)) & ~is_open
    candidates = select(batches.c.id).where(or_(started, finished))
    ids = _ids(database, candidates)
    return [batch_id for batch_id in ids if finalize_batch(database, batch_id).is_terminal]


def _ids(database: Database, statement: Select[str]) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(statement.order_by(batches.c.created_at)).scalars())
