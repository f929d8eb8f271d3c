"""The manifest of an ended batch agrees with the files that can be downloaded."""

from __future__ import annotations

import hashlib

import httpx2

from models.store.submit import submit_batch
from models.store.views import Batch
from models.wire.lines import Line
from tests.api.running import Json, Served, error_of
from tests.store.builders import accepted, refused, submission, submit


def manifest(served: Served, batch: Batch) -> Json:
    answer = served.get(f"/v1/batches/{batch.id}/manifest")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def check_file(served: Served, file: Json) -> None:
    content = served.get(f"/v1/files/{file['id']}/content").content
    assert file["bytes"] == len(content)
    assert file["sha256"] == hashlib.sha256(content).hexdigest()


def test_what_went_in_came_out(served: Served) -> None:
    lines: list[Line] = [*(accepted(n) for n in range(9)), refused(9)]
    batch = submit_batch(served.database, submission(file_sha256="c" * 64), lines).batch
    served.end(batch.id)
    told = manifest(served, batch)
    assert told["whole"]
    assert set(told["checks"].values()) == {True}
    assert told["counts"] == {
        "requests": 10,
        "answered": 9,
        "failed": 1,
        "missing": 0,
        "unknown": 0,
        "repeated_ids": 0,
    }
    assert told["files"]["input"]["sha256"] == "c" * 64
    check_file(served, told["files"]["output"])
    check_file(served, told["files"]["errors"])
    assert told["batch"] == served.batch(batch.id)


def test_the_digest_of_a_deleted_file_stays(served: Served) -> None:
    batch = submit(served.database, 2)
    served.end(batch.id)
    output = manifest(served, batch)["files"]["output"]
    deleted = httpx2.delete(f"{served.server.url}/v1/files/{output['id']}")
    assert deleted.json()["deleted"]
    assert manifest(served, batch)["files"] == {
        "input": {"id": batch.file_id, "filename": "in.jsonl", "bytes": 100, "sha256": None},
        "output": output,
        "errors": None,
    }


def test_there_is_none_while_the_batch_runs(served: Served) -> None:
    batch = submit(served.database, 1)
    answer = served.get(f"/v1/batches/{batch.id}/manifest")
    assert error_of(answer) == (409, "invalid_state", None)
    unknown = served.get("/v1/batches/batch_none/manifest")
    assert error_of(unknown) == (404, "not_found", None)
