"""Pages of a batch's finished requests, to read in a browser."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from models.database import Database
from models.states import ResultStatus
from models.store.commit_log import follow_results
from models.store.failures import HAS_FAILED
from models.store.results import records_of
from models.store.views import Batch, RequestRecord
from models.tables import results


@dataclass(frozen=True, slots=True)
class RecordPage:
    """`next_after`: what to give as `after` for the next page; None: this is the last so far."""

    records: tuple[RequestRecord, ...]
    next_after: int | None


def record_page(
    database: Database,
    batch: Batch,
    *,
    limit: int,
    after: int = 0,
    status: ResultStatus | None = None,
    error_code: str | None = None,
) -> RecordPage:
    """Requests in the order in which they finished; those of one status in the file's order.

    `after` counts results in the first case and lines in the second.
    """
    if status is None:
        followed = list(follow_results(database, batch.id, after=after, limit=limit))
        number = followed[-1][0] if followed else after
        has_more = number < batch.completed + batch.failed
        return RecordPage(tuple(record for _, record in followed), number if has_more else None)
    idxs = _idxs(database, batch.id, limit + 1, after, status, error_code)
    records = tuple(records_of(database, batch.id, idxs[:limit]))
    return RecordPage(records, idxs[limit - 1] + 1 if len(idxs) > limit else None)


def _idxs(
    database: Database,
    batch_id: str,
    limit: int,
    after: int,
    status: ResultStatus,
    error_code: str | None,
) -> list[int]:
    has_status = HAS_FAILED if status is ResultStatus.ERROR else results.c.status == str(status)
    statement = (
        select(results.c.idx)
        .where(results.c.batch_id == batch_id, results.c.idx >= after, has_status)
        .order_by(results.c.idx)
        .limit(limit)
    )
    if error_code is not None:
        statement = statement.where(results.c.error_code == error_code)
    with database.read() as connection:
        return list(connection.execute(statement).scalars())
