"""Canaries: the newest of each model, what was usual before it, and no more than are kept."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from models.database import Database
from models.model_key import ModelKey, Weights
from models.store import canaries as store
from models.store.canaries import canary_figures, record_canary
from models.tables import canaries

OTHER = ModelKey("other", Weights.INT4)
MODEL = ModelKey("demo", Weights.INT8)


def record(database: Database, model: ModelKey, n_exact: int, speed: float | None) -> None:
    record_canary(database, model, n_expected=10, n_exact=n_exact, output_tokens_per_second=speed)


def test_the_newest_of_each_model_is_beside_the_medians_before_it(database: Database) -> None:
    assert canary_figures(database) == []
    for n_exact, speed in ((10, 50.0), (9, None), (2, 70.0), (7, 20.0)):
        record(database, MODEL, n_exact, speed)
    record(database, OTHER, 10, None)
    demo, other = canary_figures(database)
    assert (demo.model, demo.exact_ratio, demo.output_tokens_per_second) == (MODEL, 0.7, 20.0)
    assert (demo.earlier_exact_ratio, demo.earlier_tokens_per_second) == (0.9, 60.0)
    assert (other.model, other.exact_ratio, other.output_tokens_per_second) == (OTHER, 1.0, None)
    assert other.earlier_exact_ratio is other.earlier_tokens_per_second is None
    assert other.measured_at >= demo.measured_at > 0


def test_only_the_latest_count_and_old_ones_go(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "KEPT", 5)
    monkeypatch.setattr(store, "EARLIER", 2)
    record(database, OTHER, 1, None)
    for n_exact in (0, 0, 0, 0, 0, 8, 8, 9):
        record(database, MODEL, n_exact, None)
    demo, other = canary_figures(database)
    assert (demo.n_exact, demo.earlier_exact_ratio) == (9, 0.8)
    assert other.n_exact == 1
    with database.read() as connection:
        kept = select(canaries.c.model_name, func.count()).group_by(canaries.c.model_name)
        counts = {name: n for name, n in connection.execute(kept)}  # noqa: C416
    assert counts == {"demo": 5, "other": 1}
