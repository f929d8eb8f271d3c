"""Sweeping repairs what dead processes left, as often and by as many as one likes."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from models.database import Database
from models.errors import LeaseLost
from models.states import AttemptOutcome, BatchState, ChunkState
from models.store.batches import finalize_batch, get_batch, list_chunks
from models.store.commit import commit_outcomes
from models.store.leases import missing_requests
from models.store.results import stream_records
from models.store.sweep import sweep
from models.store.transitions import move_chunks
from models.store.views import SweepReport
from models.tables import attempts, batches
from tests.store.builders import (
    TTL_S,
    answers,
    at_once,
    attempts_of,
    check_counters,
    chunk_of,
    claim,
    claim_expired,
    count,
    end_leases,
    finish,
    submit,
    work_off,
)


def clean_up(database: Database, max_crashes: int = 3) -> SweepReport:
    return sweep(database, dispatch_timeout_s=120, max_crashes=max_crashes)


def test_an_expired_lease_makes_the_chunk_pending_and_charges_it(database: Database) -> None:
    submit(database, 8)
    lease = claim_expired(database)
    assert clean_up(database).expired_leases == 1
    chunk = chunk_of(database, lease)
    assert (chunk.state, chunk.crashes, chunk.worker_id) == (ChunkState.PENDING, 1, None)
    assert [row["outcome"] for row in attempts_of(database, lease)] == [AttemptOutcome.LOST]
    assert claim(database).epoch == 2


def test_a_lease_that_is_held_is_left_alone(database: Database) -> None:
    submit(database, 8)
    lease = claim(database)
    assert clean_up(database) == SweepReport(
        expired_leases=0, quarantined_chunks=0, lost_dispatches=0, closed_batches=()
    )
    assert finish(database, lease).chunk_done


def test_the_sweeper_and_a_claim_charge_the_same(database: Database) -> None:
    submit(database, 8)
    claim_expired(database)
    by_claim = claim_expired(database)
    clean_up(database)
    assert chunk_of(database, by_claim).crashes == 2
    last = claim_expired(database)
    report = clean_up(database)
    assert (report.expired_leases, report.quarantined_chunks) == (1, 1)
    assert chunk_of(database, last).state is ChunkState.QUARANTINED


def test_a_quarantined_chunk_ends_its_batch_with_errors(database: Database) -> None:
    batch = submit(database, 16)
    lease = claim(database)
    commit_outcomes(database, lease, answers(missing_requests(database, lease)[:5]), ttl_s=TTL_S)
    end_leases(database)
    clean_up(database, max_crashes=1)
    work_off(database)
    assert clean_up(database).closed_batches == (batch.id,)
    final = get_batch(database, batch.id)
    assert (final.state, final.completed, final.failed) == (BatchState.COMPLETED, 13, 3)
    errors = [
        record.refusal.code for record in stream_records(database, batch.id) if record.refusal
    ]
    assert errors == ["worker_lost"] * 3
    check_counters(database, batch.id)


def test_more_expired_leases_than_fit_one_transaction_are_all_ended(database: Database) -> None:
    batch = submit(database, 130, chunk_requests=1)
    with database.begin() as connection:
        connection.execute(move_chunks(ChunkState.LEASED).values(lease_until=0.0, epoch=1))
    assert clean_up(database).expired_leases == 130
    assert {chunk.state for chunk in list_chunks(database, batch.id)} == {ChunkState.PENDING}


def test_a_finished_batch_is_closed_when_its_worker_died_before_that(database: Database) -> None:
    batch = submit(database, 8)
    finish(database, claim(database))
    assert get_batch(database, batch.id).state is BatchState.IN_PROGRESS
    assert clean_up(database).closed_batches == (batch.id,)
    assert get_batch(database, batch.id).state is BatchState.COMPLETED
    assert clean_up(database).closed_batches == ()


def test_four_sweepers_at_once_repair_everything_once(database: Database) -> None:
    for _ in range(3):
        submit(database, 20, chunk_requests=5)
    for _ in range(12):
        claim(database)
    end_leases(database)
    reports = at_once([lambda: clean_up(database, max_crashes=2)] * 4)
    assert sum(report.expired_leases for report in reports) == 12
    for _ in range(12):
        claim(database)
    end_leases(database)
    reports = at_once([lambda: clean_up(database, max_crashes=2)] * 4)
    reports += [clean_up(database)]
    assert sum(report.quarantined_chunks for report in reports) == 12
    assert count(database, attempts) == 24
    closed = {batch_id for report in reports for batch_id in report.closed_batches}
    assert len(closed) == 3
    for batch_id in closed:
        final = finalize_batch(database, batch_id)
        assert (final.state, final.failed) == (BatchState.COMPLETED, 20)
        check_counters(database, batch_id)


def test_a_paused_batch_past_its_window_expires_and_keeps_what_is_done(database: Database) -> None:
    batch = submit(database, 16, completion_window_s=3600.0)
    finish(database, claim(database))
    held = claim(database)
    commit_outcomes(database, held, answers(missing_requests(database, held)[:3]), ttl_s=TTL_S)
    with database.begin() as connection:
        connection.execute(update(batches).values(paused_at=1.0))
    assert clean_up(database).closed_batches == ()
    with database.begin() as connection:
        connection.execute(update(batches).values(expires_at=1.0))
    assert clean_up(database).closed_batches == (batch.id,)
    final = get_batch(database, batch.id)
    assert (final.state, final.completed, final.failed) == (BatchState.EXPIRED, 11, 5)
    with pytest.raises(LeaseLost):
        finish(database, held)
    check_counters(database, batch.id)
