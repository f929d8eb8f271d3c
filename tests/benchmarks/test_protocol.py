"""What the protocol costs: tables that are those of the results, and a database as in service."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks import redis_memory
from benchmarks.prepare import PROJECT
from benchmarks.protocol import (
    RESULTS_FOLDER,
    UNITS,
    Document,
    Run,
    chunk_seconds,
    read_engines,
    render,
    render_shares,
)
from benchmarks.protocol_costs import Cost
from benchmarks.protocol_fill import finish_chunks, queue_batch
from models.database import upgrade
from models.states import BatchState
from models.store.audit import audit_batch
from models.store.batches import finalize_batch, get_batch
from models.store.commit_log import follow_results
from tests.benchmarks.documents import MACHINE

DOCS = (PROJECT / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def document(**us: float) -> Document:
    """Two sizes at which each step costs so much: 10, where nothing is said, and twice that."""
    sizes = {
        size: {
            step: Cost(median_us=us.get(step, 10.0) * factor, least_us=1, most_us=99, n_samples=3)
            for step in UNITS
        }
        for size, factor in ((1000, 1), (2000, 2))
    }
    started = datetime(2026, 1, 1, tzinfo=UTC)
    run = Run(commit="0123456789ab", started=started, load_average=0.5, costs=sizes)
    return Document(database="sqlite", machine=MACHINE, runs=(run,))


@pytest.mark.parametrize("name", ["sqlite", "postgresql"])
def test_the_documented_tables_are_those_of_the_results(name: str) -> None:
    path = RESULTS_FOLDER / "protocol" / f"{name}.json"
    results = Document.model_validate_json(path.read_bytes())
    assert results.database == name
    assert render(results) in DOCS
    assert render_shares(results, read_engines()) in DOCS
    assert path.relative_to(PROJECT).as_posix() in DOCS


def test_the_documented_memory_of_redis_is_that_of_the_results() -> None:
    results = redis_memory.Document.model_validate_json(redis_memory.RESULTS_FILE.read_bytes())
    assert redis_memory.render(results) in DOCS
    assert results.n_requests == redis_memory.N_REQUESTS


def test_a_row_shows_a_cost_in_its_unit_and_how_it_grew() -> None:
    table = render(document(**{"commit of 32": 3200.0, "sweep": 1500.0}))
    assert "| commit of 32 | µs a request | 100 | 200 | 2.00 |" in table
    assert "| sweep | ms a call | 1.5 | 3 | 2.00 |" in table


def test_a_chunk_costs_a_claim_its_renewals_and_its_commits() -> None:
    # At 2,000 requests, of which the share is told: a claim of 20 ms, reading for 2 ms, a commit
    # of 1 ms and 0.5 ms for each request, a renewal of 4 ms.
    us = {"claim": 10_000.0, "read requests": 1000.0, "renew": 2000.0}
    costs = document(**us, **{"commit of 1": 750.0, "commit of 32": 8500.0})
    requests_s = 128 * 0.0005
    assert chunk_seconds(costs, 2000, 0.5) == pytest.approx(
        0.022 + 4 * 0.001 + requests_s + 0.5 / 15 * 0.004
    )
    # One that takes longer is committed once a second, and at most once a request.
    assert chunk_seconds(costs, 2000, 60) == pytest.approx(
        0.022 + 60 * 0.001 + requests_s + 60 / 15 * 0.004
    )
    assert chunk_seconds(costs, 2000, 600) == pytest.approx(
        0.022 + 128 * 0.001 + requests_s + 600 / 15 * 0.004
    )


def test_what_is_filled_in_is_as_workers_leave_it(tmp_path: Path) -> None:
    with upgrade(f"sqlite:///{tmp_path / 'nightshift.db'}") as database:
        part, whole = (queue_batch(database, number, 1000).id for number in range(2))
        finish_chunks(database, part, 0.5)
        finish_chunks(database, whole, 1.0)
        ended = finalize_batch(database, whole)
        followed = [record.idx for _, record in follow_results(database, whole)]
        is_whole = audit_batch(database, whole).is_whole
        going_on = finalize_batch(database, part)
        counted = get_batch(database, part)
    assert ended.state is BatchState.COMPLETED
    assert (ended.completed, ended.failed, ended.total) == (1000, 0, 1000)
    assert sorted(followed) == list(range(1000))
    assert is_whole
    assert going_on.state is BatchState.IN_PROGRESS
    assert counted.completed == 500
