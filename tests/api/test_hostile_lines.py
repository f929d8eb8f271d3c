"""Lines made to break a reader: each ends as an error of its own, and the others run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from models.store.views import ServedModel
from models.store.workers import register_model
from tests.api.running import Json, Served, error_of, running
from tests.cli.console import Console
from tests.store.builders import CHAT, MODEL

MIB = 1 << 20
NOT_JSON = "invalid_json_line"


def line(custom_id: str, content: str = "x") -> bytes:
    """A request as it should be."""
    body = {"model": "demo", "messages": [{"role": "user", "content": content}]}
    whole = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}
    return json.dumps(whole, ensure_ascii=False).encode()


def inside(value: bytes) -> bytes:
    """A request that would be as it should, had its body not this field."""
    return line("inside").replace(b'"messages"', b'"stop": ' + value + b', "messages"')


def nested(depth: int) -> bytes:
    """Arrays in a request, as many levels deep as the whole line is to be."""
    return inside(b"[" * (depth - 2) + b"]" * (depth - 2))


HOSTILE = {
    "no JSON": (b"{", NOT_JSON),
    "no object": (b"[1, 2]", NOT_JSON),
    "a text": (b'"text"', NOT_JSON),
    "too deep": (nested(33), NOT_JSON),
    "much too deep": (nested(100_000), NOT_JSON),
    "open brackets": (b"[" * 500_000, NOT_JSON),
    "as deep as may be": (nested(32), "invalid_type"),
    "a key twice": (inside(b'1, "stop": 2'), NOT_JSON),
    "an id twice": (line("r").replace(b"{", b'{"custom_id": "a", ', 1), NOT_JSON),
    "NaN": (inside(b"NaN"), NOT_JSON),
    "Infinity": (inside(b"-Infinity"), NOT_JSON),
    "a float without end": (inside(b"1e999"), NOT_JSON),
    "an integer without end": (inside(b"9" * 10_000), NOT_JSON),
    "half a pair": (inside(b'"\\ud800"'), NOT_JSON),
    "half a pair in a key": (inside(b'1, "\\udfff": 2'), NOT_JSON),
    "NUL": (inside(b'"\\u0000"'), NOT_JSON),
    "no UTF-8": (inside(b'"\xff"'), NOT_JSON),
    "a coded half pair": (inside(b'"\xed\xa0\x80"'), NOT_JSON),
    "too long": (line("long", "x" * MIB), "line_too_long"),
    "nothing but length": (b"x" * (3 * MIB), "line_too_long"),
}
LONGEST = line("longest", "x" * (MIB - len(line("longest", ""))))


@pytest.fixture
def ready(served: Served) -> Served:
    register(served)
    return served


def register(served: Served) -> None:
    model = ServedModel(key=MODEL, artifact="a" * 64, architecture="llama", context_tokens=512)
    register_model(served.database, model)


def create(served: Served, content: bytes) -> Json:
    files = {"file": ("in.jsonl", content)}
    url = f"{served.server.url}/v1/files"
    file = httpx2.post(url, files=files, data={"purpose": "batch"}, timeout=60).json()
    window = {"endpoint": CHAT, "completion_window": "24h"}
    created = served.post("/v1/batches", {"input_file_id": file["id"], **window})
    assert created.status_code == 200, created.text
    return dict(created.json())


def lines_of(served: Served, file_id: str) -> list[Json]:
    return [json.loads(one) for one in served.get(f"/v1/files/{file_id}/content").iter_lines()]


def test_each_bad_line_of_a_file_fails_alone(ready: Served) -> None:
    bad = [content for content, _ in HOSTILE.values()]
    assert len(LONGEST) == MIB
    content = b"\n".join([line("first"), *bad, LONGEST, b"", line("last")])
    batch = create(ready, content)
    counts = ready.await_status(batch["id"], "in_progress")["request_counts"]
    assert counts == {"total": len(bad) + 3, "completed": 0, "failed": len(bad)}
    ready.end(batch["id"])
    ended = ready.batch(batch["id"])
    answered = [each["custom_id"] for each in lines_of(ready, ended["output_file_id"])]
    assert answered == ["first", "longest", "last"]
    failed = [each["response"] for each in lines_of(ready, ended["error_file_id"])]
    assert {response["status_code"] for response in failed} == {400}
    errors = [response["body"]["error"] for response in failed]
    told = dict(zip(HOSTILE, (error["code"] for error in errors), strict=True))
    assert told == {name: code for name, (_, code) in HOSTILE.items()}
    for number, error in enumerate(errors, 2):
        assert error["message"].startswith(f"line {number}: ")
        assert len(error["message"]) < 500


def test_a_file_of_nothing_else_fails_and_says_why(ready: Served) -> None:
    bad = [content for content, code in HOSTILE.values() if code == NOT_JSON]
    batch = create(ready, b"\n".join(bad))
    failed = ready.await_status(batch["id"], "failed")
    (error,) = failed["errors"]["data"]
    assert (error["code"], error["line"]) == (NOT_JSON, 1)
    assert failed["request_counts"] == {"total": 0, "completed": 0, "failed": 0}


@pytest.mark.parametrize("name", [name for name, (_, code) in HOSTILE.items() if code == NOT_JSON])
def test_such_a_body_is_refused_as_a_whole(ready: Served, name: str) -> None:
    content, _ = HOSTILE[name]
    body = b'{"requests": [' + content + b"]}"
    for path in ("/v1/batches", "/v1/batches:estimate"):
        url, headers = ready.server.url + path, {"content-type": "application/json"}
        answer = httpx2.post(url, content=body, headers=headers, timeout=60)
        assert answer.status_code == 400
        assert error_of(answer)[1] in {"invalid_json", "invalid_value"}


def test_a_request_in_a_body_may_be_no_longer_than_a_line(ready: Served) -> None:
    long, short = (json.loads(line(name, "x" * size)) for name, size in (("a", MIB), ("b", 1)))
    window = {"endpoint": CHAT, "completion_window": "24h"}
    created = ready.post("/v1/batches", {"requests": [short, long], **window}).json()
    shown = ready.await_status(created["id"], "in_progress")
    assert shown["request_counts"] == {"total": 2, "completed": 0, "failed": 1}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Served]:
    """A server that takes two requests a file."""
    url = f"sqlite:///{tmp_path / 'nightshift.db'}"
    settings = {"NIGHTSHIFT_DATABASE_URL": url, "NIGHTSHIFT_MAX_FILE_REQUESTS": "2"}
    with running(Console(tmp_path, settings)) as server:
        register(server)
        yield server


def test_a_file_with_too_many_lines_fails(small: Served) -> None:
    fits = create(small, b"\n".join([line("a"), line("b"), b"", b""]))
    small.await_status(fits["id"], "in_progress")
    batch = create(small, b"\n".join(line(f"r{number}") for number in range(3)))
    (error,) = small.await_status(batch["id"], "failed")["errors"]["data"]
    assert (error["code"], error["line"]) == ("file_too_large", 3)


@pytest.mark.parametrize("content", [b"\n\n", b" \r\n\t\n", b"\xef\xbb\xbf\n"])
def test_a_file_of_blank_lines_fails(small: Served, content: bytes) -> None:
    batch = create(small, content)
    (error,) = small.await_status(batch["id"], "failed")["errors"]["data"]
    assert error["code"] == "empty_file"
