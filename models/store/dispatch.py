"""The dispatcher's part in SQL: which chunks to ring for, a window per live worker and no more.

Must not know how bells are rung.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from sqlalchemy import ColumnElement, Connection, Row, and_, func, select, tuple_

from models.clock import db_now
from models.database import Database
from models.model_key import ModelKey, Weights
from models.states import ChunkState
from models.store.batches import wants_results
from models.store.fair_share import (
    IS_OPEN,
    has_chunk,
    is_of,
    shares,
    take_turns,
    waiting_batches,
)
from models.store.transitions import move_chunks
from models.store.turns import take_turn
from models.store.views import Ring
from models.store.workers import is_live
from models.tables import batches, chunks, workers


def dispatch_chunks(
    database: Database,
    *,
    window_per_worker: int,
    only_batch: str | None = None,
    models: Sequence[ModelKey] | None = None,
) -> list[Ring]:
    """Mark chunks as dispatched and return the rings to send, tenant by tenant in turns.

    Per model at most `window_per_worker` chunks for each live worker are dispatched at once; a
    model without a live worker gets the window of one, so that work waits for the first to come.
    """

    def dispatch(connection: Connection) -> list[Ring]:
        take_turn(connection, "dispatch")  # two at once would fill the window twice
        waiting = _waiting_models(connection, only_batch)
        rings: list[Ring] = []
        for model in waiting:
            if models is None or model in models:
                room = _room(connection, model, window_per_worker)
                rings += _dispatch(connection, model, room, only_batch)
        return rings

    return database.transact(dispatch)


def undo_dispatch(database: Database, rings: Sequence[Ring]) -> int:
    """Take rings back that could not be sent; returns how many chunks are pending again."""
    if not rings:
        return 0
    rung = [(ring.chunk_id, ring.n) for ring in rings]
    statement = (
        move_chunks(ChunkState.PENDING)
        .where(chunks.c.state == str(ChunkState.DISPATCHED))
        .where(tuple_(chunks.c.id, chunks.c.n_dispatches).in_(rung))
        .values(dispatched_at=None)
    )
    return database.transact(
        lambda connection: connection.execute(statement).rowcount, replayable=True
    )


def _waiting_models(connection: Connection, only_batch: str | None) -> list[ModelKey]:
    statement = (
        select(batches.c.model_name, batches.c.weights)
        .distinct()
        .where(wants_results(), has_chunk(_is_ready()))
        .order_by(batches.c.model_name, batches.c.weights)
    )
    if only_batch is not None:
        statement = statement.where(batches.c.id == only_batch)
    return [ModelKey(name, Weights(weights)) for name, weights in connection.execute(statement)]


def _room(connection: Connection, model: ModelKey, window_per_worker: int) -> int:
    """How many more chunks of the model may be dispatched now."""
    live = select(func.count()).where(
        is_live(), workers.c.model_name == model.name, workers.c.weights == str(model.weights)
    )
    dispatched = (
        select(func.count())
        .select_from(chunks.join(batches))
        .where(chunks.c.state == str(ChunkState.DISPATCHED))
        .where(is_of(model))
    )
    n_live = max(1, connection.execute(live).scalar_one())
    return window_per_worker * n_live - int(connection.execute(dispatched).scalar_one())


def _dispatch(
    connection: Connection, model: ModelKey, room: int, only_batch: str | None
) -> list[Ring]:
    if room <= 0:
        return []
    rows = _pick(connection, model, room, only_batch)
    if not rows:
        return []
    connection.execute(
        move_chunks(ChunkState.DISPATCHED)
        .where(chunks.c.id.in_([row.id for row in rows]))
        .values(dispatched_at=db_now(), n_dispatches=chunks.c.n_dispatches + 1)
    )
    return [
        Ring(chunk_id=row.id, batch_id=row.batch_id, model=model, n=row.n_dispatches + 1)
        for row in rows
    ]


def _pick(
    connection: Connection, model: ModelKey, room: int, only_batch: str | None
) -> list[Row[int, str, int]]:
    """The next chunks of the model, locked but for those that somebody claims just now."""

    def chunks_of(batch_id: str) -> Iterator[int]:
        ids = select(chunks.c.id).where(chunks.c.batch_id == batch_id, IS_OPEN, _is_ready())
        yield from connection.execute(ids.order_by(chunks.c.number).limit(room)).scalars()

    waiting = waiting_batches(connection, model, _is_ready(), only_batch=only_batch)
    held = shares(connection, model, (ChunkState.LEASED, ChunkState.DISPATCHED), waiting)
    chosen = list(islice(take_turns(waiting, held, chunks_of), room))
    locking = (
        select(chunks.c.id, chunks.c.batch_id, chunks.c.n_dispatches)
        .where(chunks.c.id.in_(chosen), IS_OPEN, _is_ready())
        .with_for_update(skip_locked=True)
    )
    found = {row.id: row for row in connection.execute(locking)}
    return [found[chunk_id] for chunk_id in chosen if chunk_id in found]


def _is_ready() -> ColumnElement[bool]:
    """Whether the open chunk of the enclosing query is pending and may be rung for."""
    # Not `state = 'pending'`: SQLite would take all of those and sort them.
    taken = chunks.c.state.in_((ChunkState.DISPATCHED, ChunkState.LEASED))
    return and_(~taken, chunks.c.not_before <= db_now())
