"""The planner: cuts a batch into chunks, requests with a common prefix next to each other.

Must not know leases or workers.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, Subquery, case, func, insert, select, update

from models.clock import db_now
from models.states import ChunkState
from models.store.joins import whole_batch_join
from models.tables import chunks, requests

_SHARES: Final = 8  # pieces that a small batch is cut into, so that workers can share it
_SMALLEST: Final = 8  # requests that are worth a lease of their own


def chunk_size(n_requests: int, limit: int) -> int:
    """Requests per chunk: an eighth of the batch, but 8 at least and `limit` at most."""
    return min(limit, max(_SMALLEST, -(-n_requests // _SHARES)))


def plan_chunks(connection: Connection, batch_id: str, *, n_requests: int, limit: int) -> int:
    """Store the chunks of the batch's accepted requests; returns how many there are."""
    if n_requests == 0:
        return 0
    size = chunk_size(n_requests, limit)
    starts = range(0, n_requests, size)
    rows = [
        {"number": number, "n_requests": min(size, n_requests - start)}
        for number, start in enumerate(starts)
    ]
    connection.execute(insert(chunks).values(_new_chunk(batch_id)), rows)
    ordered = _ordered(batch_id)
    assigning = (
        update(requests)
        .where(requests.c.batch_id == batch_id, requests.c.idx == ordered.c.idx)
        .where(chunks.c.batch_id == batch_id, chunks.c.number == ordered.c.position // size)
        .values(chunk_id=chunks.c.id)
    )
    with whole_batch_join(connection):
        connection.execute(assigning)
    return len(rows)


def _ordered(batch_id: str) -> Subquery:
    """idx and position of every accepted request: groups of equal prefix, each by length.

    Prompts that share their prefix with no other are one group, so that lengths are alike there.
    """
    group = func.count().over(partition_by=requests.c.prefix_key)
    shared = (
        select(
            requests.c.idx,
            requests.c.prompt_chars,
            case((group > 1, requests.c.prefix_key), else_="").label("shared_prefix"),
        )
        .where(requests.c.batch_id == batch_id, requests.c.accepted)
        .subquery("shared")
    )
    order = (shared.c.shared_prefix, shared.c.prompt_chars, shared.c.idx)
    position = func.row_number().over(order_by=order) - 1
    return select(shared.c.idx, position.label("position")).subquery("ordered")


def _new_chunk(batch_id: str) -> dict[str, object]:
    return {
        "batch_id": batch_id,
        "state": str(ChunkState.PENDING),
        "epoch": 0,
        "attempts": 0,
        "crashes": 0,
        "not_before": 0.0,
        "n_dispatches": 0,
        "created_at": db_now(),
    }
