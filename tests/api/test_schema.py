"""The API keeps to its own OpenAPI document, whatever is sent to it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.api.live import LiveServer, live_server
from tests.cli.console import Console


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    home = tmp_path_factory.mktemp("home")
    with live_server(Console(home, {"NIGHTSHIFT_WEBHOOKS": "true"})) as running:
        yield running


CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


def test_no_answer_lies_outside_the_document(server: LiveServer) -> None:
    ended = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"{server.url}/openapi.json",
            f"--checks={','.join(CHECKS)}",
            "--max-examples=20",
            "--seed=1",
            "--no-color",
        ],
        cwd=server.program.log.parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-6000:]


def post_batch(server: LiveServer, body: bytes, **headers: str) -> httpx2.Response:
    headers = {"content-type": "application/json", **headers}
    return httpx2.post(f"{server.url}/v1/batches", content=body, headers=headers)


WHOLE = {"input_file_id": "file-x", "endpoint": "/v1/chat/completions", "completion_window": "24h"}


def changed(**values: object) -> bytes:
    return json.dumps({**WHOLE, **values}).encode()


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"[]", "invalid_value", None),
        (b'{"a": 1, "a": 2}', "invalid_json", None),
        (b'{"a": NaN}', "invalid_json", None),
        (b'{"a": 1e999}', "invalid_json", None),
        (b'{"a": ' + b"9" * 10_000 + b"}", "invalid_json", None),
        (b'{"a": "\\u0000"}', "invalid_json", None),
        (b'{"a": "\\ud800"}', "invalid_json", None),
        (b'{"a": "\xff"}', "invalid_json", None),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "invalid_json", None),
        (b"[" * 100_000, "invalid_json", None),
        (changed(extra=1), "invalid_value", "extra"),
        (changed(endpoint="/v1/embeddings"), "invalid_value", "endpoint"),
        (changed(completion_window="25d"), "not_found", "input_file_id"),
        (changed(completion_window="31d"), "invalid_value", "completion_window"),
        (changed(completion_window="0h"), "invalid_value", "completion_window"),
        (changed(metadata={"k": 1}), "invalid_value", "metadata.k"),
        (changed(metadata={str(n): "" for n in range(17)}), "invalid_value", "metadata"),
        (changed(metadata={"k": "x" * 513}), "invalid_value", "metadata.k"),
        (changed(priority=1000), "invalid_value", "priority"),
        (changed(input_file_id="file-unknown"), "not_found", "input_file_id"),
    ],
)
def test_a_bad_body_is_told_in_the_envelope(
    server: LiveServer, body: bytes, code: str, param: str | None
) -> None:
    answer = post_batch(server, body)
    assert answer.status_code == (404 if code == "not_found" else 400)
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "path", ["/v1/batches", "/v1/batches:estimate", "/v1/batches/batch_1/retry", "/v1/webhooks"]
)
def test_a_body_of_another_kind_is_refused(server: LiveServer, path: str) -> None:
    for headers, code in (
        ({"content-type": "text/plain"}, "unsupported_media_type"),
        ({"content-type": "multipart/form-data; boundary=b"}, "unsupported_media_type"),
        ({}, "unsupported_media_type"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, "unsupported_encoding"),
    ):
        answer = httpx2.post(f"{server.url}{path}", content=b"{}", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, code)


def test_an_endless_body_is_refused(server: LiveServer) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(17):
            yield b" " * (1 << 20)

    headers = {"content-type": "application/json"}
    answer = httpx2.post(f"{server.url}/v1/batches", content=pieces(), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/nothing", 404, "not_found"),
        ("/v1/batches/batch_none", 404, "not_found"),
        ("/v1/files/file-none", 404, "not_found"),
        ("/v1/files/file-none/content", 404, "not_found"),
        ("/v1/files/file-none-output", 404, "not_found"),
        ("/v1/models/none", 404, "not_found"),
        ("/v1/batches?limit=0", 400, "invalid_value"),
        ("/v1/batches?limit=x", 400, "invalid_value"),
        ("/v1/batches?after=batch_none", 404, "not_found"),
        ("/v1/files?order=up", 400, "invalid_value"),
        ("/v1/files?after=file-none", 404, "not_found"),
        ("/v1/webhooks/none", 404, "not_found"),
        ("/v1/webhooks?after=none", 404, "not_found"),
    ],
)
def test_what_is_not_there_is_told_in_the_envelope(
    server: LiveServer, path: str, status: int, code: str
) -> None:
    answer = httpx2.get(f"{server.url}{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "path", ["/v1/files/file-none", "/v1/files/file-none-output", "/v1/webhooks/none"]
)
def test_what_is_not_there_cannot_be_deleted(server: LiveServer, path: str) -> None:
    answer = httpx2.delete(f"{server.url}{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_a_method_that_is_not_there_is_told_in_the_envelope(server: LiveServer) -> None:
    answer = httpx2.put(f"{server.url}/v1/batches")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
