"""How a batch went over time, and how long its requests took lately.

From the log of commits, so that the answers themselves are not read. Must not know how it is
drawn.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, Connection, cast, func, literal, select

from models.clock import db_now
from models.database import Database
from models.generation import Timings
from models.states import ResultStatus
from models.store.speed import first_lease_at, last_commit_at
from models.store.views import Batch
from models.tables import commits, results

_MAX_SPANS: Final = 60
_MINUTE_S, _HOUR_S = 60, 3600
_SPANS_S: Final = (
    *(1, 2, 5, 10, 15, 30),
    *(n * _MINUTE_S for n in (1, 2, 5, 10, 15, 30)),
    *(n * _HOUR_S for n in (1, 2, 3, 6, 12, 24)),
)
_LATEST_COMMITS: Final = 100
_LATEST_RESULTS: Final = 500
_STAGES: Final = tuple(Timings.model_fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSeries:
    """Output tokens a second in spans of `span_s`, the last of which may be shorter."""

    began_at: float
    span_s: int
    rates: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of some durations, and what 95 % of them stay below."""

    median_s: float
    p95_s: float


def token_series(database: Database, batch: Batch) -> TokenSeries | None:
    """From the first lease to now, or to the last result of an ended batch; None before."""
    with database.read() as connection:
        began_at, ended_at = _limits(connection, batch)
        if began_at is None or ended_at is None or ended_at <= began_at:
            return None
        span_s = _span_s(ended_at - began_at)
        sums = _tokens_by_span(connection, batch.id, began_at, span_s)
    n_spans = math.ceil((ended_at - began_at) / span_s)
    last_s = max(ended_at - began_at - (n_spans - 1) * span_s, span_s / 2)
    lengths = [float(span_s)] * (n_spans - 1) + [last_s]
    rates = tuple(sums.get(number, 0) / length for number, length in enumerate(lengths))
    return TokenSeries(began_at=began_at, span_s=span_s, rates=rates)


def latest_timings(database: Database, batch_id: str) -> dict[str, Spread]:
    """The stages of the latest answers, by their names in Timings; empty before the first."""
    columns = [results.c[name] for name in _STAGES]
    with database.read() as connection:
        timed = (
            select(*columns)
            .where(results.c.batch_id == batch_id, results.c.status == str(ResultStatus.OK))
            .where(results.c.idx.in_(_latest_idxs(connection, batch_id)))
        )
        rows = connection.execute(timed).all()
    stages = zip(_STAGES, zip(*rows, strict=True), strict=True) if rows else ()
    return {name: _spread(seconds) for name, seconds in stages}


def _limits(connection: Connection, batch: Batch) -> tuple[float | None, float | None]:
    began_at = first_lease_at(literal(batch.id)).scalar_subquery()
    last_at = last_commit_at(literal(batch.id)).scalar_subquery()
    ended_at: Any = last_at if batch.is_terminal else db_now()
    first, last = connection.execute(select(began_at, ended_at)).one()
    return first, last


def _span_s(seconds: float) -> int:
    fitting = (span for span in _SPANS_S if seconds <= span * _MAX_SPANS)
    return next(fitting, math.ceil(seconds / _MAX_SPANS))


def _tokens_by_span(
    connection: Connection, batch_id: str, began_at: float, span_s: int
) -> dict[int, int]:
    elapsed_ms = cast((commits.c.committed_at - began_at) * 1000, BigInteger)
    number = (elapsed_ms // (span_s * 1000)).label("number")
    summed = (
        select(number, func.sum(commits.c.output_tokens).label("tokens"))
        .where(commits.c.batch_id == batch_id, commits.c.worker_id.is_not(None))
        .group_by(number)
    )
    return {row.number: int(row.tokens) for row in connection.execute(summed)}


def _latest_idxs(connection: Connection, batch_id: str) -> list[int]:
    latest = (
        select(commits.c.idxs)
        .where(commits.c.batch_id == batch_id, commits.c.worker_id.is_not(None))
        .order_by(commits.c.position.desc())
        .limit(_LATEST_COMMITS)
    )
    found = [idx for idxs in connection.execute(latest).scalars() for idx in idxs]
    return found[:_LATEST_RESULTS]


def _spread(seconds: Sequence[float]) -> Spread:
    ordered = sorted(seconds)
    return Spread(statistics.median(ordered), ordered[math.ceil(0.95 * len(ordered)) - 1])
