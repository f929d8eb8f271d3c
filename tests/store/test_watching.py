"""What a page to watch batches reads: speeds, series, timings, failures, pages of rows."""

from __future__ import annotations

import pytest
from sqlalchemy import text, update

from models.database import Database
from models.states import ResultStatus
from models.store.batches import cancel_batch, finalize_batch, get_batch
from models.store.charts import latest_timings, token_series
from models.store.failures import FailureGroup, failures_by_reason, with_retryable
from models.store.files import file_names, files_with_content
from models.store.record_pages import record_page
from models.store.results import database_time
from models.store.speed import batch_speeds
from models.store.submit import submit_batch
from models.store.uploads import begin_upload, end_upload, store_part
from models.store.views import DEFAULT_TENANT, Batch, Worker
from models.store.worker_figures import worker_figures
from models.store.workers import beat, leave, register_worker
from models.tables import attempts, commits, workers
from models.wire.lines import Line
from tests.store.builders import (
    MODEL,
    accepted,
    claim,
    commit,
    finish,
    refused,
    submission,
    submit,
    work_off,
)

BEGAN_AT = 1_700_000_000.0


def set_times(database: Database, batch: Batch, seconds: dict[int, float]) -> None:
    """Let the first lease begin at BEGAN_AT, and each commit, by position, come so long after."""
    with database.begin() as connection:
        connection.execute(update(attempts).values(started_at=BEGAN_AT))
        for position, at_s in seconds.items():
            of_commit = (commits.c.batch_id == batch.id, commits.c.position == position)
            moved = update(commits).where(*of_commit).values(committed_at=BEGAN_AT + at_s)
            connection.execute(moved)


def ended_batch(database: Database) -> Batch:
    """8 requests in three commits of 4, 2 and 2 requests, 2 tokens each: at 1, 2 and 9.5 s."""
    batch = submit(database, 8)
    lease = claim(database)
    for idxs in ((0, 1, 2, 3), (4, 5), (6, 7)):
        commit(database, lease, idxs)
    set_times(database, batch, {0: 1.0, 4: 2.5, 6: 9.5})
    return finalize_batch(database, batch.id)


def test_tokens_a_second_are_told_span_by_span(database: Database) -> None:
    series = token_series(database, ended_batch(database))
    assert series is not None
    assert (series.began_at, series.span_s) == (BEGAN_AT, 1)
    assert series.rates == (0, 8, 4, 0, 0, 0, 0, 0, 0, 8)  # the last span is half as long


def test_a_long_batch_has_few_spans(database: Database) -> None:
    batch = ended_batch(database)
    set_times(database, batch, {6: 30_000.0})
    series = token_series(database, batch)
    assert series is not None
    assert (series.span_s, len(series.rates)) == (600, 50)
    assert series.rates[0] == 12 / 600


def test_a_running_batch_has_a_series_up_to_now(database: Database) -> None:
    batch = submit(database, 8)
    assert token_series(database, batch) is None
    commit(database, claim(database), [0])
    with database.begin() as connection:
        began_at = database_time(database) - 100
        connection.execute(update(attempts).values(started_at=began_at))
    series = token_series(database, get_batch(database, batch.id))
    assert series is not None
    assert len(series.rates) * series.span_s >= 100


def test_timings_are_those_of_the_latest_answers(database: Database) -> None:
    batch = submit(database, 8)
    assert latest_timings(database, batch.id) == {}
    lease = claim(database)
    commit(database, lease, [0, 1])
    commit(database, lease, [2], code="context_length_exceeded")
    spread = latest_timings(database, batch.id)["total_s"]
    assert (spread.median_s, spread.p95_s) == (3.75, 3.75)


def test_speeds_of_many_batches_are_those_of_each(database: Database) -> None:
    ended, running, waiting = ended_batch(database), submit(database, 8), submit(database, 8)
    commit(database, claim(database), [0])
    running = get_batch(database, running.id)
    speeds = batch_speeds(database, [ended, running, waiting])
    for batch in (ended, running, waiting):
        assert batch_speeds(database, [batch]) == {batch.id: speeds[batch.id]}
    assert speeds[ended.id].tokens_per_second == pytest.approx(16 / 9.5)
    assert speeds[waiting.id].tokens_per_second is None


def test_a_workers_speed_is_taken_from_what_it_committed(database: Database) -> None:
    for worker_id in ("w1", "idle"):
        register_worker(database, Worker(id=worker_id, model=MODEL, host="node", pid=1))
    submit(database, 16)
    finish(database, claim(database, "w1"))
    with database.begin() as connection:
        connection.execute(update(workers).values(started_at=database_time(database) - 1000))
    speeds = {
        figures.worker.id: figures.output_tokens_per_second for figures in worker_figures(database)
    }
    assert speeds == {"w1": pytest.approx(16 / 300), "idle": 0}


def test_workers_are_seen_until_they_leave(database: Database) -> None:
    for worker_id in ("w1", "w2", "w3", "w4"):
        register_worker(database, Worker(id=worker_id, model=MODEL, host="node", pid=1))
    beat(database, "w1", draining=True)
    leave(database, "w2")
    with database.begin() as connection:
        for worker_id, silent_s in (("w3", 120), ("w4", 4000)):
            beat_at = database_time(database) - silent_s
            statement = update(workers).where(workers.c.id == worker_id)
            connection.execute(statement.values(beat_at=beat_at))
    seen = {figures.worker.id: figures.is_silent for figures in worker_figures(database)}
    assert seen == {"w1": False, "w3": True}


def test_failures_are_grouped_by_reason(database: Database) -> None:
    lines: list[Line] = [accepted(0), refused(1), *(accepted(n) for n in range(2, 9))]
    batch = submit_batch(database, submission(), lines).batch
    lease = claim(database)
    commit(database, lease, [0, 2], code="context_length_exceeded")
    commit(database, lease, [3, 4, 5])
    cancel_batch(database, batch.id)
    assert failures_by_reason(database, batch.id) == [
        FailureGroup(
            code="context_length_exceeded",
            n_requests=2,
            n_retryable=2,
            message="no answer: context_length_exceeded",
        ),
        FailureGroup(
            code="unsupported_parameter",
            n_requests=1,
            n_retryable=0,
            message="line 2 cannot be used",
        ),
    ]


def test_of_very_many_reasons_the_most_frequent_are_told(database: Database) -> None:
    lines = [refused(n, f"code_{n // 2:03}") for n in range(300)] + [refused(300, "code_149")]
    batch = submit_batch(database, submission(), lines).batch
    groups = failures_by_reason(database, batch.id)
    assert [group.code for group in groups] == ["code_149", *(f"code_{n:03}" for n in range(99))]


def test_batches_with_something_to_retry_are_found(database: Database) -> None:
    hopeless = submit_batch(database, submission(), [refused(0), accepted(1)]).batch
    work_off(database)
    failed = submit(database, 8)
    commit(database, claim(database), [3], code="worker_lost")
    answered = submit(database, 8)
    ids = [batch.id for batch in (hopeless, failed, answered)]
    assert with_retryable(database, ids) == {failed.id}


def test_failures_are_found_by_their_index(database: Database) -> None:
    if database.dialect == "postgresql":  # which looks at the size of the table first
        explain, off = "EXPLAIN ", "SET LOCAL enable_seqscan = off"
    else:
        explain, off = "EXPLAIN QUERY PLAN ", "SELECT 1"
    query = "SELECT idx FROM results WHERE batch_id = 'b' AND status = 'error' AND idx >= 3"
    with database.read() as connection:
        connection.execute(text(off))
        plan = connection.execute(text(explain + query)).all()
    assert "ix_results_failures" in str(plan)


def test_rows_come_page_by_page(database: Database) -> None:
    batch = submit(database, 8)
    lease = claim(database)
    commit(database, lease, [5, 6, 7])
    commit(database, lease, [0, 1], code="worker_lost")
    commit(database, lease, [2], code="context_length_exceeded")
    batch = get_batch(database, batch.id)

    first = record_page(database, batch, limit=4)
    assert [record.idx for record in first.records] == [5, 6, 7, 0]
    second = record_page(database, batch, limit=4, after=first.next_after or 0)
    assert ([record.idx for record in second.records], second.next_after) == ([1, 2], None)

    answered = record_page(database, batch, limit=2, status=ResultStatus.OK)
    assert [record.idx for record in answered.records] == [5, 6]
    rest = record_page(
        database, batch, limit=2, status=ResultStatus.OK, after=answered.next_after or 0
    )
    assert ([record.idx for record in rest.records], rest.next_after) == ([7], None)

    failed = record_page(database, batch, limit=3, status=ResultStatus.ERROR)
    assert ([record.idx for record in failed.records], failed.next_after) == ([0, 1, 2], None)
    lost = record_page(
        database, batch, limit=1, status=ResultStatus.ERROR, error_code="worker_lost"
    )
    assert ([record.idx for record in lost.records], lost.next_after) == ([0], 1)


def test_files_are_named_and_offered_when_their_bytes_are_here(database: Database) -> None:
    submitted = submit(database, 1, file_name="questions.jsonl").file_id
    uploaded = begin_upload(database, DEFAULT_TENANT)
    store_part(database, uploaded, 0, b"{}")
    end_upload(
        database,
        DEFAULT_TENANT,
        uploaded,
        name="a.jsonl",
        purpose="batch",
        n_bytes=2,
        n_lines=1,
        sha256="0",
    )
    assert file_names(database, [submitted, uploaded]) == {
        submitted: "questions.jsonl",
        uploaded: "a.jsonl",
    }
    offered = files_with_content(database, DEFAULT_TENANT, limit=5)
    assert [file.id for file in offered] == [uploaded]
    assert files_with_content(database, "somebody else", limit=5) == []
