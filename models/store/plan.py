"""The planner: cuts a batch into chunks, requests with a common prefix next to each other.

Must not know leases.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, Subquery, case, func, insert, select, update

from models.clock import db_now
from models.states import ChunkState
from models.store.forecast import Capacity, ModelSpeed
from models.store.joins import whole_batch_join
from models.store.prompts import CHARS_PER_TOKEN
from models.tables import chunks, requests

CHUNK_S: Final = 180.0  # that one worker takes: what others may have to wait for at a batch's end
_SHARES: Final = 8  # pieces at least that a batch is cut into, so that workers can share it
_SHARES_PER_WORKER: Final = 2  # whoever is done early takes another
_SMALLEST: Final = 8  # requests that are worth a lease of their own
# A worker holds 16 leases at most, most of them in their last answers. With smaller chunks than
# this they would not fill an engine that runs 96 sequences at once.
_SMALLEST_BY_TIME: Final = 48


def chunk_size(
    n_requests: int,
    limit: int,
    *,
    n_workers: int = 0,
    worker_requests_per_second: float | None = None,
) -> int:
    """Requests per chunk: the worker's share of the batch, or less if that takes it too long.

    An eighth of the batch at most, with more than 4 live workers half a worker's part; what one
    worker does in `CHUNK_S`, where its speed is known; 8 at least and `limit` at most. The limit
    holds for fast models too: by requests go the worker's memory and the time that a chunk
    takes on its last chance.
    """
    size = max(_SMALLEST, -(-n_requests // max(_SHARES, _SHARES_PER_WORKER * n_workers)))
    if worker_requests_per_second is not None:
        size = min(size, max(_SMALLEST_BY_TIME, int(worker_requests_per_second * CHUNK_S)))
    return min(limit, size)


def plan_chunks(
    connection: Connection, batch_id: str, *, n_requests: int, limit: int, capacity: Capacity
) -> int:
    """Store the chunks of the batch's accepted requests; returns how many there are."""
    if n_requests == 0:
        return 0
    size = chunk_size(
        n_requests,
        limit,
        n_workers=capacity.n_workers,
        worker_requests_per_second=_requests_per_second(connection, batch_id, capacity.speed),
    )
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


def _requests_per_second(
    connection: Connection, batch_id: str, speed: ModelSpeed | None
) -> float | None:
    """Of one worker, if answers get as long as lately but no longer than each request allows."""
    if speed is None:
        return None
    # Floats: the product of two integers may be more than PostgreSQL's integers hold.
    at_most = requests.c.params["max_tokens"].as_float() * func.coalesce(
        requests.c.params["n"].as_float(), 1.0
    )
    lately = speed.output_tokens_per_request
    output_tokens = case((at_most < lately, at_most), else_=lately)
    expecting = select(
        func.avg(requests.c.prompt_chars).label("prompt_chars"),
        func.avg(output_tokens).label("output_tokens"),
    ).where(requests.c.batch_id == batch_id, requests.c.accepted)
    row = connection.execute(expecting).one()
    n_tokens = float(row.prompt_chars) / CHARS_PER_TOKEN + float(row.output_tokens)
    return speed.worker_tokens_per_second / max(1.0, n_tokens)


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
