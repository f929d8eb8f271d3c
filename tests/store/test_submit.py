"""Submitting is all or nothing, and once per idempotency key."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from models.database import Database
from models.errors import IdempotencyConflict, InputFileError, NotFoundError
from models.generation import Prompt, TokenPrompt
from models.params import DecodingParams
from models.states import BatchState, ResultStatus
from models.store.batches import get_batch, list_chunks
from models.store.leases import missing_requests
from models.store.results import stream_records
from models.store.submit import submit_batch
from models.tables import batches, chunks, files, requests, results
from models.wire.lines import AcceptedLine, Line
from tests.store.builders import (
    CHAT,
    MODEL,
    accepted,
    accepted_lines,
    at_once,
    chat,
    check_counters,
    claim,
    count,
    refused,
    submission,
    submit,
)

TABLES = (files, batches, requests, chunks, results)


def test_a_batch_is_in_progress_with_every_request_in_a_chunk(database: Database) -> None:
    batch = submit(database, 20, metadata={"team": "nlp"}, priority=3, completion_window_s=86400)
    assert (batch.state, batch.model, batch.endpoint) == (BatchState.IN_PROGRESS, MODEL, CHAT)
    assert (batch.total, batch.completed, batch.failed, batch.remaining) == (20, 0, 0, 20)
    assert (batch.metadata, batch.priority, batch.seed) == ({"team": "nlp"}, 3, 7)
    assert batch.expires_at == pytest.approx(batch.created_at + 86400, abs=1)
    assert batch.in_progress_at is not None
    assert batch.id.startswith("batch_") and batch.file_id.startswith("file-")
    assert [chunk.n_requests for chunk in list_chunks(database, batch.id)] == [8, 8, 4]


def test_what_was_submitted_comes_out_as_it_went_in(database: Database) -> None:
    params = DecodingParams(temperature=0.5, logit_bias={7: -1.5}, stop=("\n",), seed=11)
    prompts: list[Prompt] = [chat("Grüße 🌙", "Be brief."), TokenPrompt(token_ids=(1, 2, 3))]
    lines = [
        AcceptedLine(n + 1, f"id {n}", prompt, params, CHAT) for n, prompt in enumerate(prompts)
    ]
    submit_batch(database, submission(), lines)
    queued = sorted(missing_requests(database, claim(database)), key=lambda request: request.idx)
    assert [request.prompt for request in queued] == prompts
    assert [request.params for request in queued] == [params, params]
    assert [request.custom_id for request in queued] == ["id 0", "id 1"]
    assert [request.seed for request in queued] == [11, 11]


def test_a_request_without_a_seed_gets_one_that_batch_and_idx_decide(database: Database) -> None:
    seeds = []
    for seed in (7, 7, 8):
        submit(database, 8, seed=seed)
        queued = missing_requests(database, claim(database))
        seeds.append([request.seed for request in sorted(queued, key=lambda r: r.idx)])
    assert seeds[0] == seeds[1]
    assert not set(seeds[0]) & set(seeds[2])
    assert len(set(seeds[0])) == 8
    assert all(0 <= seed < 2**63 for seed in seeds[0])


def test_refused_lines_are_final_at_once_and_the_others_run(database: Database) -> None:
    lines: list[Line] = [accepted(0), refused(1), accepted(2)]
    batch = submit_batch(database, submission(), lines).batch
    assert (batch.state, batch.total, batch.failed) == (BatchState.IN_PROGRESS, 3, 1)
    (record,) = stream_records(database, batch.id)
    assert (record.idx, record.line_number, record.status) == (1, 2, ResultStatus.ERROR)
    assert record.refusal is not None
    assert (record.refusal.code, record.refusal.param) == ("unsupported_parameter", "stream")
    assert [request.idx for request in missing_requests(database, claim(database))] == [0, 2]
    check_counters(database, batch.id)


def test_a_refused_duplicate_keeps_its_custom_id(database: Database) -> None:
    duplicate = refused(1, "duplicate_custom_id")
    lines: list[Line] = [accepted(0), type(duplicate)(2, "r0", duplicate.refusal)]
    batch = submit_batch(database, submission(), lines).batch
    (record,) = stream_records(database, batch.id)
    assert record.custom_id == "r0"


def test_a_batch_of_refused_lines_alone_is_completed(database: Database) -> None:
    batch = submit_batch(database, submission(), [refused(0), refused(1)]).batch
    assert (batch.state, batch.failed, batch.total) == (BatchState.COMPLETED, 2, 2)


def test_a_file_without_any_json_is_a_failed_batch_with_its_errors(database: Database) -> None:
    lines = [refused(n, "invalid_json_line") for n in range(150)]
    batch = submit_batch(database, submission(), lines).batch
    assert (batch.state, batch.total, len(batch.errors)) == (BatchState.FAILED, 150, 100)
    assert (batch.errors[0].line, batch.errors[0].code) == (1, "invalid_json_line")
    assert batch.failed_at is not None


def test_an_empty_file_stores_nothing(database: Database) -> None:
    with pytest.raises(InputFileError) as refusal:
        submit_batch(database, submission(), [])
    assert refusal.value.code == "empty_file"
    assert [count(database, table) for table in TABLES] == [0] * len(TABLES)


def test_an_error_in_the_middle_of_the_file_stores_nothing(database: Database) -> None:
    def broken() -> Iterator[Line]:
        yield from accepted_lines(1500)
        raise InputFileError("the file ends in the middle of a line")

    with pytest.raises(InputFileError, match="in the middle of a line"):
        submit_batch(database, submission(idempotency_key="k"), broken())
    assert [count(database, table) for table in TABLES] == [0] * len(TABLES)
    assert submit_batch(database, submission(idempotency_key="k"), accepted_lines(3)).created


def test_two_accepted_lines_of_one_custom_id_store_nothing(database: Database) -> None:
    with pytest.raises(InputFileError, match="same custom_id") as refusal:
        submit_batch(database, submission(), [accepted(0), accepted(1), accepted(0)])
    assert refusal.value.code == "duplicate_custom_id"
    assert count(database, batches) == 0


@dataclass(frozen=True)
class WatchedLine(AcceptedLine):
    """A line that tells when nobody holds it any more."""


def test_a_big_file_is_never_in_memory_as_a_whole(database: Database) -> None:
    held: weakref.WeakSet[WatchedLine] = weakref.WeakSet()
    most = 0

    def watched() -> Iterator[Line]:
        nonlocal most
        for n in range(6000):
            plain = accepted(n)
            line = WatchedLine(n + 1, plain.custom_id, plain.prompt, plain.params, plain.endpoint)
            held.add(line)
            most = max(most, len(held))
            yield line

    assert submit_batch(database, submission(), watched()).batch.total == 6000
    assert most <= 2001  # one group being stored, one being read


def test_the_same_key_and_body_give_the_same_batch(database: Database) -> None:
    first = submit_batch(database, submission(idempotency_key="k"), accepted_lines(9))
    again = submit_batch(database, submission(idempotency_key="k"), accepted_lines(9))
    assert (first.created, again.created) == (True, False)
    assert again.batch == first.batch
    assert count(database, batches) == count(database, files) == 1


def test_the_same_key_with_another_body_is_a_conflict(database: Database) -> None:
    first = submit(database, 9, idempotency_key="k")
    with pytest.raises(IdempotencyConflict, match=first.id):
        submit(database, 9, idempotency_key="k", body_sha256="b" * 64)
    assert submit(database, 9, idempotency_key="k", tenant_id="other").id != first.id


def test_twenty_submissions_of_one_key_at_once_make_one_batch(database: Database) -> None:
    one = submission(idempotency_key="k")
    submitted = at_once([lambda: submit_batch(database, one, accepted_lines(30))] * 20)
    assert len({result.batch.id for result in submitted}) == 1
    assert sum(result.created for result in submitted) == 1
    assert (count(database, batches), count(database, requests)) == (1, 30)


def test_another_tenants_batch_is_not_found(database: Database) -> None:
    batch = submit(database, 3, tenant_id="a")
    assert get_batch(database, batch.id, "a") == batch
    with pytest.raises(NotFoundError, match=batch.id):
        get_batch(database, batch.id)
