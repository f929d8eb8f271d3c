"""Results are read in file order at any time, and their sums are what the rows say."""

from __future__ import annotations

import pytest

from models.database import Database
from models.generation import Refusal
from models.states import ResultStatus
from models.store.commit import commit_outcomes
from models.store.commit_log import follow_results
from models.store.leases import claim_next, missing_requests, release_lease
from models.store.results import batch_figures, database_time, stream_records
from models.store.submit import submit_batch
from models.store.views import Outcome, Worker
from models.store.workers import beat, register_worker
from models.tables import attempts, results
from tests.store.builders import (
    MODEL,
    TTL_S,
    accepted,
    answers,
    claim,
    finish,
    refused,
    rows,
    submission,
    submit,
    work_off,
)


def test_records_come_in_file_order_over_many_pages(database: Database) -> None:
    batch = submit(database, 1203, chunk_requests=300)
    work_off(database)
    records = list(stream_records(database, batch.id))
    assert [record.idx for record in records] == list(range(1203))
    assert [record.line_number for record in records] == list(range(1, 1204))
    assert [record.idx for record in stream_records(database, batch.id, after_idx=1199)] == [
        1200,
        1201,
        1202,
    ]


def test_records_of_a_running_batch_are_what_is_final_so_far(database: Database) -> None:
    batch = submit(database, 16)
    lease = claim(database)
    some = missing_requests(database, lease)[:3]
    commit_outcomes(database, lease, answers(some), ttl_s=TTL_S)
    final = {request.idx for request in some}
    assert {record.idx for record in stream_records(database, batch.id)} == final
    assert {record.idx for _, record in follow_results(database, batch.id)} == final


def test_a_batch_is_followed_by_the_number_of_what_is_known(database: Database) -> None:
    batch = submit(database, 1203, chunk_requests=300)
    known: list[int] = []
    while (lease := claim_next(database, MODEL, "w", ttl_s=TTL_S)) is not None:
        finish(database, lease)
        fresh = list(follow_results(database, batch.id, after=len(known)))
        known.extend(record.idx for _, record in fresh)
        assert len(fresh) == lease.n_requests
        assert [number for number, _ in fresh][-1] == len(known)
    everything = [record.idx for _, record in follow_results(database, batch.id)]
    assert everything == known
    assert sorted(known) == list(range(1203))


def test_records_can_be_of_one_status(database: Database) -> None:
    batch = submit_batch(database, submission(), [accepted(0), refused(1), accepted(2)]).batch
    lease = claim(database)
    finish(database, lease)
    failed = list(stream_records(database, batch.id, status=ResultStatus.ERROR))
    done = list(stream_records(database, batch.id, status=ResultStatus.OK))
    assert ([record.idx for record in failed], [record.idx for record in done]) == ([1], [0, 2])
    assert (failed[0].prompt, failed[0].params, failed[0].worker_id) == (None, None, None)
    assert (done[0].prompt, done[0].custom_id) == (accepted(0).prompt, "r0")


def test_the_figures_of_a_batch_are_the_sums_of_its_rows(database: Database) -> None:
    for name, peak in (("w1", 5000), ("w2", 7000), ("idle", 9000)):
        register_worker(database, Worker(id=name, model=MODEL, host="h", pid=1))
        beat(database, name, rss_bytes=100, peak_rss_bytes=peak)
    batch = submit(database, 16)
    finish(database, claim(database, "w1"))
    second = claim(database, "w2")
    refusal = Refusal(code="context_length_exceeded", message="too long")
    *most, last = missing_requests(database, second)
    outcomes = [*answers(most), Outcome(idx=last.idx, refusal=refusal)]
    commit_outcomes(database, second, outcomes, ttl_s=TTL_S)
    figures = batch_figures(database, batch.id)
    assert (figures.total, figures.completed, figures.failed) == (16, 15, 1)
    assert (figures.kept, figures.generated) == (0, 16)
    assert (figures.prompt_tokens, figures.cached_prompt_tokens) == (45, 15)
    assert figures.output_tokens == 30
    assert (figures.prefill_s, figures.decode_s) == (15.0, 30.0)
    assert (figures.attempts, figures.workers, figures.peak_rss_bytes) == (2, 2, 7000)
    first_claim = min(row["started_at"] for row in rows(database, attempts))
    last_commit = max(row["created_at"] for row in rows(database, results))
    assert figures.seconds_generate == pytest.approx(last_commit - first_claim, abs=0.001)
    assert figures.tokens_per_second == pytest.approx(30 / figures.seconds_generate)


def test_the_figures_of_a_resumed_run_leave_out_what_was_kept(database: Database) -> None:
    batch = submit(database, 16)
    first = claim(database)
    commit_outcomes(database, first, answers(missing_requests(database, first)[:5]), ttl_s=TTL_S)
    release_lease(database, first, crashed=False, reason="interrupted")
    since = database_time(database)
    assert work_off(database) == 2
    figures = batch_figures(database, batch.id, since)
    assert (figures.completed, figures.kept, figures.generated) == (16, 5, 11)
    assert (figures.output_tokens, figures.attempts) == (22, 2)
    whole = batch_figures(database, batch.id)
    assert (whole.output_tokens, whole.attempts) == (32, 3)
    assert 0 < figures.seconds_generate < whole.seconds_generate


def test_the_figures_of_a_batch_that_never_ran_are_zero(database: Database) -> None:
    batch = submit_batch(database, submission(), [accepted(0), refused(1)]).batch
    figures = batch_figures(database, batch.id)
    assert (figures.failed, figures.generated, figures.seconds_generate) == (1, 0, 0.0)
    assert (figures.tokens_per_second, figures.peak_rss_bytes) == (0.0, None)
