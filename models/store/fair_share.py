"""Whose chunk is next: tenants share a model's workers equally, each orders its own batches.

Within a tenant: higher priority, then the earlier deadline, then age, then the chunk's number.
Batches are looked at first and their chunks then, so that waiting chunks cost nothing. Must not
know what becomes of a chunk.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from sqlalchemy import ColumnElement, Connection, TextClause, func, literal, select, text

from models.model_key import ModelKey
from models.states import ChunkState
from models.store.batches import wants_results
from models.store.joins import first_by_index
from models.tables import OPEN_CHUNK, batches, chunks

# In these words SQLite knows that it may use the index of open chunks.
IS_OPEN: Final[TextClause] = text(f"chunks.{OPEN_CHUNK}")

# Of one tenant's batches.
IN_ORDER: Final = (
    batches.c.priority.desc(),
    batches.c.expires_at.asc().nulls_last(),
    batches.c.created_at,
    batches.c.id,
)

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class WaitingBatch:
    """A batch with a chunk to give."""

    id: str
    tenant_id: str


def waiting_batches(
    connection: Connection,
    model: ModelKey,
    is_ready: ColumnElement[bool],
    *,
    only_batch: str | None,
) -> list[WaitingBatch]:
    """The batches of the model with a chunk that `is_ready`, in each tenant's order."""
    first_by_index(connection)
    statement = (
        select(batches.c.id, batches.c.tenant_id)
        .where(is_of(model), wants_results(), has_chunk(is_ready))
        .order_by(*IN_ORDER)
    )
    if only_batch is not None:
        statement = statement.where(batches.c.id == only_batch)
    return [WaitingBatch(*row) for row in connection.execute(statement)]


def shares(
    connection: Connection,
    model: ModelKey,
    busy: Sequence[ChunkState],
    waiting: Iterable[WaitingBatch],
) -> Mapping[str, int]:
    """How many chunks in a `busy` state each tenant has; 0 for one that has none."""
    counted: Counter[str] = Counter()
    if len({batch.tenant_id for batch in waiting}) > 1:
        counting = (
            select(batches.c.tenant_id, func.count().label("n"))
            .select_from(chunks.join(batches))
            .where(chunks.c.state.in_(busy), is_of(model))
            .group_by(batches.c.tenant_id)
        )
        counted.update({row.tenant_id: row.n for row in connection.execute(counting)})
    return counted


def fair_order(waiting: Iterable[WaitingBatch], held: Mapping[str, int]) -> list[WaitingBatch]:
    """The batches in the order in which they may give one chunk."""
    return sorted(waiting, key=lambda batch: held[batch.tenant_id])


def take_turns(
    waiting: Iterable[WaitingBatch],
    held: Mapping[str, int],
    chunks_of: Callable[[str], Iterable[Row]],
) -> Iterator[Row]:
    """Chunk after chunk, each chosen as if those before it were held already."""
    of_tenant: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for rank, batch in enumerate(waiting):
        of_tenant[batch.tenant_id].append((rank, batch.id))
    queues = {tenant: _ranked(queue, chunks_of) for tenant, queue in of_tenant.items()}
    turns: list[tuple[int, int, str, Row]] = []

    def queue_up(tenant: str, n_held: int) -> None:
        if (first := next(queues[tenant], None)) is not None:
            heapq.heappush(turns, (n_held, first[0], tenant, first[1]))

    for tenant in queues:
        queue_up(tenant, held[tenant])
    while turns:
        n_held, _, tenant, row = heapq.heappop(turns)
        yield row
        queue_up(tenant, n_held + 1)


def has_chunk(is_ready: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether the batch of the enclosing query has a chunk that `is_ready`."""
    # Not EXISTS: PostgreSQL would make a join of it and read every waiting chunk.
    one = select(literal(1)).where(chunks.c.batch_id == batches.c.id, IS_OPEN, is_ready).limit(1)
    return one.correlate(batches).scalar_subquery().is_not(None)


def is_of(model: ModelKey) -> ColumnElement[bool]:
    """Whether the batch of the enclosing query is of the model."""
    return (batches.c.model_name == model.name) & (batches.c.weights == str(model.weights))


def _ranked(
    queue: Iterable[tuple[int, str]], chunks_of: Callable[[str], Iterable[Row]]
) -> Iterator[tuple[int, Row]]:
    return ((rank, row) for rank, batch_id in queue for row in chunks_of(batch_id))
