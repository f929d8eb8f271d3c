"""Results: streamed in file order, and summed up.

Readable at any time, also while the batch runs. Must not know output formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, select

from models.clock import db_now
from models.database import Database
from models.generation import Timings
from models.states import ResultStatus
from models.store.rows import request_record
from models.store.views import BatchFigures, RequestRecord
from models.tables import attempts, batches, chunks, requests, results, workers

_ROWS_PER_PAGE: Final = 500
_TOKENS: Final = ("prompt_tokens", "cached_prompt_tokens", "output_tokens")
_STAGES: Final = tuple(Timings.model_fields)


def stream_records(
    database: Database,
    batch_id: str,
    *,
    status: ResultStatus | None = None,
    after_idx: int | None = None,
) -> Iterator[RequestRecord]:
    """Every request that has a result, by idx; a page at a time, so no transaction stays open."""
    last = -1 if after_idx is None else after_idx
    finished = (
        select(results)
        .where(results.c.batch_id == batch_id)
        .order_by(results.c.idx)
        .limit(_ROWS_PER_PAGE)
    )
    if status is not None:
        finished = finished.where(results.c.status == str(status))
    while page := _read_page(database, finished.where(results.c.idx > last)):
        yield from page
        last = page[-1].idx


def records_of(database: Database, batch_id: str, idxs: Sequence[int]) -> list[RequestRecord]:
    """The requests of these numbers that have a result, by idx; some hundreds at a time."""
    of_page = select(results).where(results.c.batch_id == batch_id, results.c.idx.in_(idxs))
    return _read_page(database, of_page.order_by(results.c.idx))


def database_time(database: Database) -> float:
    """The database's clock: what to give as `since` to `batch_figures`."""
    with database.read() as connection:
        return connection.execute(select(db_now())).scalar_one()


def batch_figures(database: Database, batch_id: str, since: float | None = None) -> BatchFigures:
    """Counts of the whole batch; tokens and seconds of what was generated since `since`.

    `seconds_generate` runs from the first lease to the last committed result, both since then.
    """
    start = 0.0 if since is None else since
    with database.read() as connection:
        sums = connection.execute(_result_sums(batch_id, start)).mappings().one()
        leases = connection.execute(_lease_sums(batch_id, start)).mappings().one()
        total = connection.execute(select(batches.c.n_total).where(batches.c.id == batch_id))
        n_total = total.scalar_one()
    first, last = leases["first_claim_at"], sums["last_commit_at"]
    return BatchFigures(
        total=n_total,
        **{name: sums[name] for name in ("completed", "failed", "kept", "generated")},
        **{name: sums[name] for name in (*_TOKENS, *_STAGES)},
        seconds_generate=max(0.0, last - first) if first and last else 0.0,
        **{name: leases[name] for name in ("attempts", "workers", "peak_rss_bytes")},
    )


def _read_page(database: Database, finished: Select[Any]) -> list[RequestRecord]:
    """The results and, in a second query, their requests.

    Not one join: without statistics of a young batch PostgreSQL would compare each with each.
    """
    with database.read() as connection:
        found = {row["idx"]: row for row in connection.execute(finished).mappings()}
        if not found:
            return []
        batch_id = next(iter(found.values()))["batch_id"]
        asked = select(requests).where(requests.c.batch_id == batch_id, requests.c.idx.in_(found))
        asked_rows = {row["idx"]: row for row in connection.execute(asked).mappings()}
    return [request_record(asked_rows[idx], row) for idx, row in found.items()]


def _result_sums(batch_id: str, start: float) -> Select[*tuple[Any, ...]]:
    is_ok = results.c.status == str(ResultStatus.OK)
    made = and_(results.c.created_at >= start, results.c.epoch > 0)

    def total(name: str) -> ColumnElement[Any]:
        return func.coalesce(func.sum(results.c[name]).filter(made), 0).label(name)

    return select(
        func.count().filter(is_ok).label("completed"),
        func.count().filter(~is_ok).label("failed"),
        func.count().filter(results.c.created_at < start).label("kept"),
        func.count().filter(made).label("generated"),
        func.max(results.c.created_at).filter(made).label("last_commit_at"),
        *(total(name) for name in (*_TOKENS, *_STAGES)),
    ).where(results.c.batch_id == batch_id)


def _lease_sums(batch_id: str, start: float) -> Select[*tuple[Any, ...]]:
    return (
        select(
            func.min(attempts.c.started_at).label("first_claim_at"),
            func.count().label("attempts"),
            func.count(attempts.c.worker_id.distinct()).label("workers"),
            func.max(workers.c.peak_rss_bytes).label("peak_rss_bytes"),
        )
        .select_from(attempts.join(chunks).outerjoin(workers, workers.c.id == attempts.c.worker_id))
        .where(chunks.c.batch_id == batch_id, attempts.c.started_at >= start)
    )
