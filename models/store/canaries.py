"""Canaries: how the answers to always the same requests and their speed went over time, by model.

What is compared is done by `nightshift canary`; here are the figures of each time.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, RowMapping, and_, delete, func, insert, select

from models.clock import db_now
from models.database import Database
from models.model_key import ModelKey, Weights
from models.tables import canaries

KEPT: Final = 1000  # of each model; older ones go
EARLIER: Final = 20  # how many the newest is compared with


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryFigures:
    """What came of a model's newest canary, and what was usual before; None where nothing was."""

    model: ModelKey
    measured_at: float
    n_expected: int
    n_exact: int
    output_tokens_per_second: float | None
    earlier_exact_ratio: float | None
    earlier_tokens_per_second: float | None

    @property
    def exact_ratio(self) -> float:
        """The share of the expected answers that came."""
        return self.n_exact / self.n_expected


def record_canary(
    database: Database,
    model: ModelKey,
    *,
    n_expected: int,
    n_exact: int,
    output_tokens_per_second: float | None,
) -> None:
    """Keep the figures of one canary; `n_expected` is at least 1."""
    of_model = and_(canaries.c.model_name == model.name, canaries.c.weights == model.weights)
    oldest_kept = (
        select(canaries.c.id)
        .where(of_model)
        .order_by(canaries.c.id.desc())
        .offset(KEPT)
        .limit(1)
        .scalar_subquery()
    )

    def work(connection: Connection) -> None:
        connection.execute(
            insert(canaries).values(
                model_name=model.name,
                weights=str(model.weights),
                measured_at=db_now(),
                n_expected=n_expected,
                n_exact=n_exact,
                output_tokens_per_second=output_tokens_per_second,
            )
        )
        connection.execute(delete(canaries).where(of_model, canaries.c.id <= oldest_kept))

    database.transact(work)


def canary_figures(database: Database) -> list[CanaryFigures]:
    """The newest canary of every model, by name, beside the medians of those before it."""
    place = func.row_number().over(
        partition_by=(canaries.c.model_name, canaries.c.weights), order_by=canaries.c.id.desc()
    )
    ranked = select(canaries, place.label("place")).subquery()
    newest = (
        select(ranked)
        .where(ranked.c.place <= 1 + EARLIER)
        .order_by(ranked.c.model_name, ranked.c.weights, ranked.c.place)
    )
    by_model: dict[ModelKey, list[RowMapping]] = {}
    with database.read() as connection:
        for row in connection.execute(newest).mappings():
            key = ModelKey(row["model_name"], Weights(row["weights"]))
            by_model.setdefault(key, []).append(row)
    return [_figures(model, rows) for model, rows in by_model.items()]


def _figures(model: ModelKey, rows: Sequence[RowMapping]) -> CanaryFigures:
    newest, earlier = rows[0], rows[1:]
    speeds = [row["output_tokens_per_second"] for row in earlier]
    return CanaryFigures(
        model=model,
        measured_at=newest["measured_at"],
        n_expected=newest["n_expected"],
        n_exact=newest["n_exact"],
        output_tokens_per_second=newest["output_tokens_per_second"],
        earlier_exact_ratio=_median([row["n_exact"] / row["n_expected"] for row in earlier]),
        earlier_tokens_per_second=_median([speed for speed in speeds if speed is not None]),
    )


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
