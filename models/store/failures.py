"""Why requests of a batch failed, by reason. Read from an index of the failures alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Integer, Select, and_, cast, exists, func, literal_column, select

from models.database import Database
from models.store.joins import whole_batch_join
from models.tables import batches, requests, results

_MAX_GROUPS: Final = 100  # uploaded files may name their own codes

# Spelled as in the index: a bound parameter would hide from SQLite that it can be used.
HAS_FAILED: Final = results.c.status == literal_column("'error'")
_IS_SAME_REQUEST: Final = and_(
    requests.c.batch_id == results.c.batch_id, requests.c.idx == results.c.idx
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Requests that failed for one reason; those refused when they were read cannot run again."""

    code: str
    n_requests: int
    n_retryable: int
    message: str  # of the first one


def failures_by_reason(database: Database, batch_id: str) -> list[FailureGroup]:
    """The reasons, the most frequent one first; of very many the rarest are left out."""
    with database.read() as connection:
        with whole_batch_join(connection):
            groups = connection.execute(_grouped(batch_id)).all()
        messages = _messages(connection, batch_id, [group.first for group in groups])
    return [
        FailureGroup(
            code=group.error_code,
            n_requests=group.n,
            n_retryable=group.n_retryable,
            message=messages[group.first],
        )
        for group in groups
    ]


def with_retryable(database: Database, batch_ids: Collection[str]) -> set[str]:
    """Those of the batches that have a failed request which could run again."""
    retryable = exists().where(
        results.c.batch_id == batches.c.id, HAS_FAILED, _IS_SAME_REQUEST, requests.c.accepted
    )
    found = select(batches.c.id).where(batches.c.id.in_(batch_ids), retryable)
    with database.read() as connection:
        return set(connection.execute(found).scalars())


def _grouped(batch_id: str) -> Select[Any]:
    number = func.count().label("n")
    return (
        select(
            results.c.error_code,
            number,
            func.sum(cast(requests.c.accepted, Integer)).label("n_retryable"),
            func.min(results.c.idx).label("first"),
        )
        .join(requests, _IS_SAME_REQUEST)
        .where(results.c.batch_id == batch_id, HAS_FAILED)
        .group_by(results.c.error_code)
        .order_by(number.desc(), results.c.error_code)
        .limit(_MAX_GROUPS)
    )


def _messages(connection: Connection, batch_id: str, idxs: list[int]) -> dict[int, str]:
    named = select(results.c.idx, results.c.error_message).where(
        results.c.batch_id == batch_id, results.c.idx.in_(idxs)
    )
    return {row.idx: row.error_message for row in connection.execute(named)}
