"""Uploads as they come over the wire: in pieces, malformed, too large, broken off."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2
import pytest

from models.store.files import PART_BYTES
from tests.api.live import LiveServer, live_server
from tests.cli.console import Console

LIMIT_BYTES = 3 * PART_BYTES
FILE_FIELD = 'form-data; name="file"; filename="a.jsonl"'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    home = tmp_path_factory.mktemp("home")
    console = Console(home, {"NIGHTSHIFT_MAX_FILE_BYTES": str(LIMIT_BYTES)})
    with live_server(console, "--no-keys") as running:
        yield running


def post(server: LiveServer, body: bytes, content_type: str, **headers: str) -> httpx2.Response:
    return httpx2.post(
        f"{server.url}/v1/files", content=body, headers={"content-type": content_type, **headers}
    )


def form(*parts: tuple[str, bytes], end: str = "--b--\r\n") -> bytes:
    """A body with boundary `b`: content dispositions and their values."""
    written = b""
    for disposition, value in parts:
        written += f"--b\r\ncontent-disposition: {disposition}\r\n\r\n".encode() + value + b"\r\n"
    return written + end.encode()


def purpose(value: str = "batch") -> tuple[str, bytes]:
    return 'form-data; name="purpose"', value.encode()


def error_of(answer: httpx2.Response) -> tuple[int, str | None, str | None]:
    """Status, code and parameter; the envelope has all four keys and nothing else."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]
    return answer.status_code, body["error"]["code"], body["error"]["param"]


def n_files(server: LiveServer) -> int:
    return len(httpx2.get(f"{server.url}/v1/files").json()["data"])


@pytest.mark.parametrize("size", [1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, LIMIT_BYTES])
def test_what_goes_in_comes_out(server: LiveServer, size: int) -> None:
    content = bytes(number % 251 for number in range(1000)) * (size // 1000 + 1)
    files = {"file": ("grüße.jsonl", content[:size])}
    made = httpx2.post(f"{server.url}/v1/files", files=files, data={"purpose": "batch"}).json()
    assert (made["bytes"], made["filename"]) == (size, "grüße.jsonl")
    read = httpx2.get(f"{server.url}/v1/files/{made['id']}/content")
    assert read.content == content[:size]
    assert int(read.headers["content-length"]) == size


def test_the_purpose_may_come_after_the_file(server: LiveServer) -> None:
    body = form((FILE_FIELD, b"{}"), purpose())
    assert post(server, body, "multipart/form-data; boundary=b").status_code == 200


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (form((FILE_FIELD, b"{}")), (400, "invalid_value", "purpose")),
        (form((FILE_FIELD, b"{}"), purpose("fine-tune")), (400, "invalid_value", "purpose")),
        (form(purpose()), (400, "missing", "file")),
        (form((FILE_FIELD, b""), purpose()), (400, "empty_file", "file")),
        (form((FILE_FIELD, b"{}"), purpose(), end=""), (400, "invalid_multipart", None)),
        (form((FILE_FIELD, b"1"), (FILE_FIELD, b"2")), (400, "invalid_multipart", None)),
        (form(("form-data", b"1")), (400, "invalid_multipart", None)),
        (form(('form-data; name="x"', b"1" * 2000)), (400, "invalid_multipart", None)),
        (form(*[('form-data; name="x"', b"1")] * 20), (400, "invalid_multipart", None)),
        (form(('form-data; name="x"', b"\xff")), (400, "invalid_multipart", None)),
        (b"no multipart at all", (400, "invalid_multipart", None)),
        (b"", (400, "invalid_multipart", None)),
    ],
)
def test_a_malformed_upload_is_refused_and_leaves_nothing(
    server: LiveServer, body: bytes, expected: tuple[int, str, str | None]
) -> None:
    before = n_files(server)
    assert error_of(post(server, body, "multipart/form-data; boundary=b")) == expected
    assert n_files(server) == before


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        f"multipart/form-data; boundary={'b' * 300}",
        "text/x; a",
    ],
)
def test_another_content_type_is_refused(server: LiveServer, content_type: str) -> None:
    status, code, _ = error_of(post(server, b"{}", content_type))
    assert (status, code) == (415, "unsupported_media_type")


def test_a_compressed_upload_is_refused(server: LiveServer) -> None:
    answer = post(server, b"x", "multipart/form-data; boundary=b", **{"content-encoding": "gzip"})
    assert error_of(answer)[:2] == (415, "unsupported_encoding")


@pytest.mark.parametrize(
    ("anchor", "seconds"),
    [
        ("created_at", "3599"),
        ("created_at", "x"),
        ("created_at", "9" * 30),
        ("created_at", "000000003600" + "9" * 400),  # begins well, and is infinite as a float
        ("now", "3600"),
    ],
)
def test_a_bad_expiry_is_refused(server: LiveServer, anchor: str, seconds: str) -> None:
    data = {
        "purpose": "batch",
        "expires_after[anchor]": anchor,
        "expires_after[seconds]": seconds,
    }
    answer = httpx2.post(f"{server.url}/v1/files", files={"file": ("a", b"{}")}, data=data)
    assert error_of(answer)[:2] == (400, "invalid_value")


def test_a_file_over_the_limit_is_refused_while_it_comes(server: LiveServer) -> None:
    """The rest is never read: a sender that would go on for ever gets its answer."""
    before = n_files(server)
    address = urlsplit(server.url)
    start = form((FILE_FIELD, b""), end="")[:-2]
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n"
            b"content-type: multipart/form-data; boundary=b\r\n\r\n"
        )
        piece = start + b"x" * (LIMIT_BYTES + 1)
        connection.sendall(b"%x\r\n" % len(piece) + piece + b"\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 413
        assert b'"file_too_large"' in answer.read()
    assert n_files(server) == before


def test_an_upload_that_breaks_off_leaves_nothing(server: LiveServer) -> None:
    before = n_files(server)
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n"
            b"content-type: multipart/form-data; boundary=b\r\n\r\n"
        )
        connection.sendall(form((FILE_FIELD, b"x" * 1000), end=""))
    assert n_files(server) == before


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=8-", 206, b"89"),
        ("bytes=-3", 206, b"789"),
        ("bytes=5-100", 206, b"56789"),
        ("bytes=3-1", 200, b"0123456789"),
        ("bytes=0-1,3-4", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
    ],
)
def test_a_range_is_read(server: LiveServer, asked: str, status: int, expected: bytes) -> None:
    files = {"file": ("a.jsonl", b"0123456789")}
    made = httpx2.post(f"{server.url}/v1/files", files=files, data={"purpose": "batch"}).json()
    url = f"{server.url}/v1/files/{made['id']}/content"
    answer = httpx2.get(url, headers={"range": asked})
    assert (answer.status_code, answer.content) == (status, expected)
    if status == 206:
        assert answer.headers["content-range"].endswith("/10")
    again = httpx2.get(url, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=-0"])
def test_a_range_behind_the_end_is_told_in_the_envelope(server: LiveServer, asked: str) -> None:
    files = {"file": ("a.jsonl", b"0123456789")}
    made = httpx2.post(f"{server.url}/v1/files", files=files, data={"purpose": "batch"}).json()
    url = f"{server.url}/v1/files/{made['id']}/content"
    answer = httpx2.get(url, headers={"range": asked})
    assert error_of(answer) == (416, "range_not_satisfiable", "range")
    assert answer.headers["content-range"] == "bytes */10"
