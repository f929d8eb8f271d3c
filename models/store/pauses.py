"""Pausing a batch: what is leased runs to its end, nothing more is claimed until it is resumed.

A mark beside the state, not a state of its own. Pausing marks the batch first and then takes its
rings back, resuming the other way round: each step may be repeated.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, Update, select, update

from models.clock import db_now
from models.database import Database
from models.errors import StateError
from models.states import ChunkState
from models.store.batches import get_batch
from models.store.transitions import move_chunks
from models.store.views import DEFAULT_TENANT, PAUSABLE, Batch
from models.tables import batches, chunks


def pause_batch(database: Database, batch_id: str, tenant_id: str = DEFAULT_TENANT) -> Batch:
    """Let nobody claim more of the batch; pausing twice is the same as once.

    Its completion window goes on. Raises NotFoundError, and StateError for a batch that has ended
    or is about to.
    """
    _check(get_batch(database, batch_id, tenant_id), "paused")
    _mark(database, _of_batch(batch_id).where(batches.c.paused_at.is_(None)), db_now())
    _take_rings_back(database, batch_id)
    return _check(get_batch(database, batch_id, tenant_id), "paused")


def resume_batch(database: Database, batch_id: str, tenant_id: str = DEFAULT_TENANT) -> Batch:
    """Let the batch go on at once; one that is not paused stays as it is. Raises the same."""
    _check(get_batch(database, batch_id, tenant_id), "resumed")
    _take_rings_back(database, batch_id)
    _mark(database, _of_batch(batch_id), None)
    return _check(get_batch(database, batch_id, tenant_id), "resumed")


def _check(batch: Batch, target: str) -> Batch:
    if batch.state not in PAUSABLE:
        raise StateError(f"batch {batch.id} is {batch.state}: it cannot be {target} any more")
    return batch


def _of_batch(batch_id: str) -> Update:
    return update(batches).where(batches.c.id == batch_id, batches.c.state.in_(PAUSABLE))


def _mark(database: Database, marking: Update, paused_at: ColumnElement[float] | None) -> None:
    statement = marking.values(paused_at=paused_at)
    database.transact(lambda connection: connection.execute(statement), replayable=True)


def _take_rings_back(database: Database, batch_id: str) -> None:
    """Dispatched chunks are pending again: they take no place in the window meanwhile.

    Without it a chunk whose ring was heard in vain would wait until it counts as lost.
    """
    rung = (
        select(chunks.c.id)
        .where(chunks.c.batch_id == batch_id, chunks.c.state == str(ChunkState.DISPATCHED))
        .order_by(chunks.c.id)
        .with_for_update()
    )

    def take_back(connection: Connection) -> None:
        ids = list(connection.execute(rung).scalars())
        returning = move_chunks(ChunkState.PENDING).where(chunks.c.id.in_(ids))
        connection.execute(returning.values(dispatched_at=None))

    database.transact(take_back, replayable=True)
