"""Results can be read while the batch runs: each once, in the order of their commits."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from models.store.creation import NewBatch, create_batch
from models.store.results import stream_records
from models.store.submit import submit_batch
from models.store.views import Batch
from models.wire.lines import Line
from tests.api.running import Served, error_of
from tests.store.builders import CHAT, accepted, refused, submission, submit
from tests.store.test_files import TENANT, upload


def lines_of(answer: httpx2.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.content.splitlines()]


def results(served: Served, batch: Batch, query: str = "") -> httpx2.Response:
    return served.get(f"/v1/batches/{batch.id}/results{query}")


def test_a_running_batch_shows_what_it_has(served: Served) -> None:
    batch = submit(served.database, 20)
    empty = results(served, batch)
    assert (lines_of(empty), empty.headers["x-next-cursor"]) == ([], "0")
    served.answer_chunk(batch.id)
    some = results(served, batch)
    assert [line["cursor"] for line in lines_of(some)] == list(range(1, 9))
    assert (some.headers["x-next-cursor"], some.headers["x-batch-status"]) == ("8", "in_progress")
    served.end(batch.id)
    rest = results(served, batch, "?after=8")
    assert [line["cursor"] for line in lines_of(rest)] == list(range(9, 21))
    assert (rest.headers["x-next-cursor"], rest.headers["x-batch-status"]) == ("20", "completed")
    assert lines_of(results(served, batch, "?after=20")) == []


def test_pages_add_up_to_the_batch(served: Served) -> None:
    batch = submit(served.database, 30)
    served.end(batch.id)
    seen, cursor = [], 0
    while page := lines_of(results(served, batch, f"?after={cursor}&limit=7")):
        assert len(page) <= 7
        cursor = page[-1]["cursor"]
        seen += page
    assert sorted(line["custom_id"] for line in seen) == sorted(f"r{n}" for n in range(30))


def test_a_line_is_that_of_the_files_with_its_cursor(served: Served) -> None:
    lines: list[Line] = [accepted(0), refused(1)]
    batch = submit_batch(served.database, submission(), lines).batch
    served.end(batch.id)
    shown = served.batch(batch.id)
    in_files = [
        json.loads(served.get(f"/v1/files/{shown[name]}/content").content)
        for name in ("output_file_id", "error_file_id")
    ]
    followed = lines_of(results(served, batch))
    assert sorted(line.pop("cursor") for line in followed) == [1, 2]
    assert sorted(followed, key=lambda line: line["response"]["status_code"]) == in_files


def test_more_than_a_piece_is_streamed(served: Served) -> None:
    """Of a larger batch every line arrives whole and in order."""
    batch = submit(served.database, 1500, chunk_requests=500)
    served.end(batch.id)
    found = lines_of(results(served, batch, "?limit=1200"))
    assert [line["cursor"] for line in found] == list(range(1, 1201))
    order = {record.custom_id for record in stream_records(served.database, batch.id)}
    assert {line["custom_id"] for line in found} < order


def test_there_is_nothing_before_validation(served: Served) -> None:
    file = upload(served.database, b"")
    new = NewBatch(tenant_id=TENANT, file_id=file.id, endpoint=CHAT, body_sha256="a" * 64)
    batch = create_batch(served.database, new).batch
    assert lines_of(results(served, batch)) == []


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ("?after=-1", "invalid_value", "after"),
        ("?after=x", "invalid_value", "after"),
        ("?after=1.5", "invalid_value", "after"),
        (f"?after={2**31}", "invalid_value", "after"),
        ("?after=9", "invalid_cursor", "after"),
        ("?limit=0", "invalid_value", "limit"),
        ("?limit=10001", "invalid_value", "limit"),
    ],
)
def test_a_bad_cursor_is_refused(served: Served, query: str, code: str, param: str) -> None:
    batch = submit(served.database, 8)
    assert error_of(results(served, batch, query)) == (400, code, param)


def test_an_unknown_batch_has_no_results(served: Served) -> None:
    answer = served.get("/v1/batches/batch_none/results")
    assert error_of(answer) == (404, "not_found", None)


def test_a_file_whose_requests_came_some_other_way_has_no_content(served: Served) -> None:
    file_id = submit(served.database, 2).file_id
    assert served.get(f"/v1/files/{file_id}").json()["bytes"] == 100
    for headers in ({}, {"range": "bytes=3-"}):
        answer = served.get(f"/v1/files/{file_id}/content", headers=headers)
        assert error_of(answer) == (404, "not_found", None)
