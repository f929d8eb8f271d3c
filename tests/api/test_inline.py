"""Requests in the body of a batch are what lines of an uploaded file are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from models.store.views import ServedModel
from models.store.workers import register_model
from tests.api.running import Json, Served, error_of, running
from tests.cli.console import Console
from tests.store.builders import CHAT, MODEL

REPEAT = {"x-stainless-retry-count": "2"}


@pytest.fixture
def ready(served: Served) -> Served:
    """A server whose model is known, as after a worker's first start."""
    model = ServedModel(key=MODEL, artifact="sha256:0", architecture="llama", context_tokens=512)
    register_model(served.database, model)
    return served


def request(number: int, **body: Any) -> Json:
    messages = [{"role": "user", "content": f"question {number}\u2028"}]
    whole = {"model": "demo", "messages": messages, "max_tokens": 4, **body}
    return {"custom_id": f"r{number}", "method": "POST", "url": CHAT, "body": whole}


def asked(requests: object, **changes: object) -> Json:
    return {"requests": requests, "endpoint": CHAT, "completion_window": "24h", **changes}


def post(served: Served, body: Json, **headers: str) -> httpx2.Response:
    return served.post("/v1/batches", body, **headers)


def test_requests_become_a_file_and_run(ready: Served) -> None:
    requests = [request(n) for n in range(20)]
    created = post(ready, asked(requests)).json()
    ready.await_status(created["id"], "in_progress")
    content = ready.get(f"/v1/files/{created['input_file_id']}/content").content
    assert [json.loads(line) for line in content.splitlines()] == requests
    ready.end(created["id"])
    ended = ready.batch(created["id"])
    assert ended["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
    told = ready.get(f"/v1/batches/{created['id']}/manifest").json()
    assert told["whole"]
    assert told["files"]["input"]["bytes"] == len(content)


def test_one_bad_request_does_not_stop_the_others(ready: Served) -> None:
    bad = [request(1, stream=True), {"custom_id": "x"}, {}, request(0)]
    created = post(ready, asked([request(0), *bad])).json()
    shown = ready.await_status(created["id"], "in_progress")
    assert shown["request_counts"] == {"total": 5, "completed": 0, "failed": 4}


def test_the_same_call_makes_one_batch_and_one_file(ready: Served) -> None:
    body = asked([request(7)])
    with ThreadPoolExecutor(3) as threads:
        headers: list[dict[str, str]] = [{}, REPEAT, REPEAT]
        made = list(threads.map(lambda given: post(ready, body, **given).json(), headers))
    assert len({batch["id"] for batch in made}) == 1
    (kept,) = {batch["input_file_id"] for batch in made}
    files = [file["id"] for file in ready.get("/v1/files").json()["data"]]
    assert kept in files
    assert post(ready, body).json()["id"] != made[0]["id"]
    n_files = len(files)
    post(ready, body, **REPEAT)
    assert len(ready.get("/v1/files").json()["data"]) == n_files + 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (asked([]), "requests"),
        (asked("x"), "requests"),
        (asked([1]), "requests.0"),
        (asked(None), None),
        (asked([{}], input_file_id="file-x"), None),
    ],
)
def test_a_bad_body_is_refused(ready: Served, body: Json, param: str | None) -> None:
    assert error_of(post(ready, body)) == (400, "invalid_value", param)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Served]:
    url = f"sqlite:///{tmp_path / 'nightshift.db'}"
    settings = {"NIGHTSHIFT_DATABASE_URL": url, "NIGHTSHIFT_MAX_FILE_REQUESTS": "3"}
    with running(Console(tmp_path, settings)) as server:
        yield server


def test_too_many_requests_are_refused(small: Served) -> None:
    answer = post(small, asked([request(n) for n in range(4)]))
    assert error_of(answer) == (413, "file_too_large", "requests")
    assert small.get("/v1/files").json()["data"] == []
    large = request(0)
    large["body"]["messages"][0]["content"] = "x" * (17 << 20)
    assert error_of(post(small, asked([large]))) == (413, "body_too_large", None)
