"""Validation goes on where it was, by one process at a time, and ends in one transaction."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import update

from models.database import Database
from models.errors import LeaseLost
from models.states import BatchState
from models.store.batches import cancel_batch, finalize_batch, get_batch, list_chunks
from models.store.commit_log import follow_results
from models.store.creation import NewBatch, create_batch
from models.store.lines import Tally
from models.store.sweep import sweep
from models.store.validation import (
    Validation,
    claim_validation,
    fail_validation,
    finish_validation,
    set_model,
    store_lines,
)
from models.store.views import Batch, BatchError, Worker
from models.store.workers import register_worker
from models.tables import batches, requests, results
from models.wire.lines import Line
from tests.store.builders import (
    CHAT,
    MODEL,
    accepted,
    check_counters,
    count,
    refused,
    work_off,
)
from tests.store.test_files import TENANT, upload

LINES: list[Line] = [accepted(0), refused(1), accepted(2), accepted(3)]


@pytest.fixture
def batch(database: Database) -> Batch:
    file = upload(database, b"{}")
    new = NewBatch(tenant_id=TENANT, file_id=file.id, endpoint=CHAT, body_sha256="a" * 64)
    return create_batch(database, new).batch


def claim(database: Database, validator_id: str = "v1", ttl_s: float = 60) -> Validation:
    claimed = claim_validation(database, validator_id, ttl_s=ttl_s)
    assert claimed is not None
    return claimed


def finish(database: Database, validation: Validation, lines: list[Line]) -> None:
    tally = Tally()
    for line in lines:
        tally.count(line)
    finish_validation(database, validation, tally, model=MODEL, chunk_requests=8)


def test_a_validated_batch_runs(database: Database, batch: Batch) -> None:
    validation = claim(database)
    set_model(database, validation, MODEL)
    store_lines(database, validation, 0, LINES[:2])
    seen = get_batch(database, batch.id)
    assert (seen.state, seen.model, seen.total) == (BatchState.VALIDATING, MODEL, 2)
    store_lines(database, validation, 2, LINES[2:])
    assert list_chunks(database, batch.id) == []
    finish(database, validation, LINES)
    assert get_batch(database, batch.id).state is BatchState.IN_PROGRESS
    work_off(database)
    ended = finalize_batch(database, batch.id)
    assert (ended.state, ended.completed, ended.failed) == (BatchState.COMPLETED, 3, 1)
    check_counters(database, batch.id)
    followed = list(follow_results(database, batch.id))
    assert followed[0][1].idx == 1  # the refused one, at once
    assert {record.idx for _, record in followed} == {0, 1, 2, 3}
    assert [cursor for cursor, _ in followed] == [1, 2, 3, 4]


def test_a_validated_batch_is_cut_for_the_workers_that_there_are(
    database: Database, batch: Batch
) -> None:
    for number in range(10):
        register_worker(database, Worker(id=f"w{number}", model=MODEL, host="node", pid=1))
    validation = claim(database)
    set_model(database, validation, MODEL)
    store_lines(database, validation, 0, [accepted(n) for n in range(200)])
    tally = Tally(accepted=200)
    finish_validation(database, validation, tally, model=MODEL, chunk_requests=128)
    assert [chunk.n_requests for chunk in list_chunks(database, batch.id)] == [10] * 20


def test_one_process_at_a_time_validates(database: Database, batch: Batch) -> None:
    assert claim(database).batch_id == batch.id
    assert claim_validation(database, "v2", ttl_s=60) is None


def test_another_process_goes_on_after_the_rows_that_are_there(
    database: Database, batch: Batch
) -> None:
    first = claim(database)
    set_model(database, first, MODEL)
    store_lines(database, first, 0, LINES[:3])
    with database.begin() as connection:
        connection.execute(batches.update().values(validator_until=0.0))
    second = claim(database, "v2")
    assert second.n_stored == 3
    with pytest.raises(LeaseLost):
        store_lines(database, first, 3, LINES[3:])
    store_lines(database, second, 3, LINES[3:])
    finish(database, second, LINES)
    assert get_batch(database, batch.id).total == 4
    check_counters(database, batch.id)


def test_a_cancelled_batch_is_validated_no_further(database: Database, batch: Batch) -> None:
    validation = claim(database)
    set_model(database, validation, MODEL)
    store_lines(database, validation, 0, LINES)
    assert cancel_batch(database, batch.id).state is BatchState.CANCELLED
    with pytest.raises(LeaseLost):
        store_lines(database, validation, 4, [accepted(4)])
    check_counters(database, batch.id)
    assert len(list(follow_results(database, batch.id))) == 4
    assert claim_validation(database, "v2", ttl_s=60) is None


def test_a_file_that_cannot_be_used_leaves_its_reason_alone(
    database: Database, batch: Batch
) -> None:
    validation = claim(database)
    store_lines(database, validation, 0, LINES)
    error = BatchError(code="file_too_large", message="too many", line=4)
    fail_validation(database, validation, [error])
    failed = get_batch(database, batch.id)
    assert (failed.state, failed.errors, failed.total) == (BatchState.FAILED, (error,), 0)
    assert (count(database, requests), count(database, results)) == (0, 0)
    assert list(follow_results(database, batch.id)) == []


def test_a_file_without_any_json_has_failed(database: Database, batch: Batch) -> None:
    lines: list[Line] = [refused(0, "invalid_json_line")]
    validation = claim(database)
    store_lines(database, validation, 0, lines)
    finish(database, validation, lines)
    failed = get_batch(database, batch.id)
    assert (failed.state, failed.errors[0].code) == (BatchState.FAILED, "invalid_json_line")


def test_a_batch_of_refused_lines_alone_is_completed(database: Database, batch: Batch) -> None:
    validation = claim(database)
    set_model(database, validation, MODEL)
    store_lines(database, validation, 0, [refused(0)])
    finish(database, validation, [refused(0)])
    assert get_batch(database, batch.id).state is BatchState.COMPLETED


def make_overdue(database: Database, batch: Batch) -> None:
    """Let the time pass that the batch may take."""
    with database.begin() as connection:
        connection.execute(update(batches).where(batches.c.id == batch.id).values(expires_at=1.0))


def test_an_overdue_batch_that_nobody_reads_fails(database: Database, batch: Batch) -> None:
    died = claim(database, ttl_s=-1)
    store_lines(database, replace(died, ttl_s=-1), 0, LINES[:2])
    assert sweep(database, dispatch_timeout_s=60, max_crashes=3).closed_batches == ()
    make_overdue(database, batch)
    assert sweep(database, dispatch_timeout_s=60, max_crashes=3).closed_batches == (batch.id,)
    failed = get_batch(database, batch.id)
    assert (failed.state, failed.total, failed.failed) == (BatchState.FAILED, 0, 0)
    assert [error.code for error in failed.errors] == ["batch_expired"]
    assert count(database, requests) == count(database, results) == 0
    with pytest.raises(LeaseLost):
        store_lines(database, died, 2, LINES[2:])


def test_an_overdue_batch_that_is_read_expires_with_all_its_requests(
    database: Database, batch: Batch
) -> None:
    validation = claim(database)
    set_model(database, validation, MODEL)
    store_lines(database, validation, 0, LINES[:2])
    make_overdue(database, batch)
    assert sweep(database, dispatch_timeout_s=60, max_crashes=3).closed_batches == ()
    store_lines(database, validation, 2, LINES[2:])
    finish(database, validation, LINES)
    assert work_off(database) == 0
    assert sweep(database, dispatch_timeout_s=60, max_crashes=3).closed_batches == (batch.id,)
    expired = get_batch(database, batch.id)
    assert (expired.state, expired.total, expired.failed) == (BatchState.EXPIRED, 4, 4)
    refusals = [record.refusal for _, record in follow_results(database, batch.id)]
    codes = sorted(refusal.code for refusal in refusals if refusal is not None)
    assert codes == ["batch_expired"] * 3 + ["unsupported_parameter"]
