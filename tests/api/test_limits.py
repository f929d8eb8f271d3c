"""A key's limits hold on every API process, and losing Redis stops nobody."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from api.problems import Problem
from api.request_rates import RequestRates
from models.database import Database
from models.store.files import PART_BYTES
from models.store.keys import KeyLimits, NewKey, create_key
from models.tables import batches, file_parts, files
from tests.api.operations import CREATE, FORM, LINES, refusal, upload, visitor
from tests.api.serving import EVERYWHERE, client, serving
from tests.servers import RedisServer, free_port, started, wait_until
from tests.store.builders import count

MINUTE = 60


def make_key(database: Database, **limits: int) -> str:
    new = NewKey(name="test", tenant_id="mine", limits=KeyLimits(**limits))
    return create_key(database, new)[1]


def is_allowed(rates: RequestRates, key_id: str, requests_per_minute: int) -> bool:
    try:
        rates.count(key_id, requests_per_minute)
    except Problem as problem:
        assert problem.status == 429
        return False
    return True


def test_calls_beyond_the_limit_are_told_when_to_come_back(
    database: Database, tmp_path: Path
) -> None:
    limited, other = make_key(database, requests_per_minute=3), make_key(database)
    with serving(database, host=EVERYWHERE, home=tmp_path) as url:
        with client(url, limited) as session:
            answers = [session.get("/v1/files") for _ in range(5)]
        with client(url, other) as session:
            assert [session.get("/v1/files").status_code for _ in range(5)] == [200] * 5
    assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 2
    assert refusal(answers[4]) == (429, "rate_limit_exceeded")
    assert 1 <= int(answers[4].headers["retry-after"]) <= MINUTE
    assert answers[4].json()["error"]["type"] == "rate_limit_error"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis counts as away only when it is: an answer may take as long as it takes."""
    monkeypatch.setattr("api.request_rates._TIMEOUT_S", None)


@pytest.mark.usefixtures("patient")
def test_api_processes_with_one_broker_count_together(redis_server: RedisServer) -> None:
    redis_server.flushall()
    processes = [RequestRates(redis_server.url) for _ in range(3)]
    allowed = [is_allowed(rates, "a", 4) for rates in (*processes, *processes)]
    assert allowed == [True] * 4 + [False] * 2
    assert is_allowed(processes[0], "b", 4)


@pytest.mark.usefixtures("patient")
def test_while_redis_is_away_each_process_counts_for_itself() -> None:
    with started(RedisServer()) as server:
        rates = RequestRates(server.url)
        assert is_allowed(rates, "a", 2)
        server.stop()
        assert [is_allowed(rates, "a", 2) for _ in range(3)] == [True, True, False]


def test_a_broker_that_was_never_there_stops_nobody(database: Database, tmp_path: Path) -> None:
    broker_url = f"redis://127.0.0.1:{free_port()}/0"
    token = make_key(database, requests_per_minute=2)
    with ExitStack() as stack:
        url = stack.enter_context(
            serving(database, host=EVERYWHERE, home=tmp_path, broker_url=broker_url)
        )
        session = stack.enter_context(client(url, token))
        assert [session.get("/v1/files").status_code for _ in range(3)] == [200, 200, 429]


def test_a_full_queue_takes_no_more_batches(database: Database, url: str) -> None:
    with client(url, make_key(database, max_queued_requests=3)) as session:
        body = {"input_file_id": upload(session, LINES).json()["id"], **CREATE}
        first = session.post("/v1/batches", json=body).json()
        full = session.post("/v1/batches", json=body)
        assert refusal(full) == (429, "queue_full")
        assert full.headers["retry-after"]
        assert full.headers["x-should-retry"] == "false"
        session.post(f"/v1/batches/{first['id']}/cancel")
        assert session.post("/v1/batches", json=body).status_code == 200


@pytest.mark.parametrize("size", [PART_BYTES, 3 * PART_BYTES])
@pytest.mark.parametrize("path", ["/v1/files", "/files"])
def test_uploads_beyond_the_limit_are_refused_and_leave_nothing(
    database: Database, tmp_path: Path, size: int, path: str
) -> None:
    token = make_key(database, max_queued_bytes=2 * PART_BYTES)
    with serving(database, host=EVERYWHERE, home=tmp_path) as url, visitor(url, token) as session:
        kept = upload(session, b"x" * (PART_BYTES + 1)).json()["id"]
        status, told = refusal(upload(session, b"y" * size, path))
        assert status == 429 and (told == "queue_full" or "bytes of files would be" in told)
        assert (count(database, files), count(database, file_parts)) == (1, 2)
        session.delete(f"/v1/files/{kept}")
        assert upload(session, b"y" * PART_BYTES, path).status_code in {200, 303}


def test_requests_given_without_a_file_count_as_bytes(database: Database, url: str) -> None:
    with client(url, make_key(database, max_queued_bytes=2 * len(LINES) - 1)) as session:
        requests = [json.loads(line) for line in LINES.splitlines()]
        refused = session.post("/v1/batches", json={"requests": requests * 2, **CREATE})
        assert refusal(refused) == (429, "queue_full")
        assert (count(database, file_parts), count(database, batches)) == (0, 0)
        assert session.post("/v1/batches", json={"requests": requests, **CREATE}).is_success


def test_a_full_queue_takes_no_more_requests_whichever_way(database: Database, url: str) -> None:
    with visitor(url, make_key(database, max_queued_requests=3)) as session:
        body = {"input_file_id": upload(session, LINES).json()["id"], **CREATE}
        ended = cancelled(session, body)
        running = session.post("/v1/batches", json=body).json()["id"]
        inline = {"requests": [json.loads(line) for line in LINES.splitlines()], **CREATE}
        ways: list[Callable[[], httpx2.Response]] = [
            lambda: session.post("/v1/batches", json=body),
            lambda: session.post("/v1/batches", json=inline),
            lambda: session.post(f"/v1/batches/{ended}/retry", json={}),
            lambda: session.post("/batches", data=body),
            lambda: session.post(f"/batches/{ended}/retry", headers=FORM),
        ]
        for way in ways:
            full = way()
            status, told = refusal(full)
            assert status == 429 and (told == "queue_full" or "4 requests would wait" in told)
            assert full.headers["retry-after"]
            assert full.headers["x-should-retry"] == "false"
        assert len(session.get("/v1/batches").json()["data"]) == 2
        assert len(session.get("/v1/files").json()["data"]) == 1
        for way in ways:
            session.post(f"/v1/batches/{running}/cancel")
            assert way().status_code in {200, 303}
            running = session.get("/v1/batches").json()["data"][0]["id"]


def cancelled(session: httpx2.Client, body: dict[str, str]) -> str:
    """The id of a batch whose requests could run again."""
    batch_id: str = session.post("/v1/batches", json=body).json()["id"]
    at = f"/v1/batches/{batch_id}"
    wait_until(lambda: session.get(at).json()["status"] == "in_progress", "it is validated")
    session.post(f"{at}/cancel")
    return batch_id


@pytest.mark.parametrize("content", [b"x", b"x\n", b"\n", b"x\ny", b"x\n" * 40_000 + b"y"])
def test_a_line_counts_without_its_line_end(database: Database, url: str, content: bytes) -> None:
    """Else any number of files of one line could wait at once for their validation."""
    n_lines = len(content.splitlines())
    for room, status in ((n_lines - 1, 429), (n_lines, 200)):
        with client(url, make_key(database, max_queued_requests=room)) as session:
            body = {"input_file_id": upload(session, content).json()["id"], **CREATE}
            answer = session.post("/v1/batches", json=body)
            assert answer.status_code == status, answer.text


def test_opening_the_page_counts_too(database: Database, url: str) -> None:
    with visitor(url, make_key(database, requests_per_minute=2)) as session:
        session.get("/v1/files")
        assert session.get("/workers").status_code == 200
        for query in ({}, {"live": "1"}):
            limited = session.get("/", params=query)
            assert refusal(limited)[0] == 429
            assert "2 times a minute" in refusal(limited)[1]
            assert 1 <= int(limited.headers["retry-after"]) <= MINUTE
        assert session.get("/sign-in").status_code == 200


def test_a_call_counts_once_whatever_it_brings(database: Database, url: str) -> None:
    asked = {"requests": [json.loads(line) for line in LINES.splitlines()] * 5000}
    with client(url, make_key(database, requests_per_minute=2)) as session:
        answers = [session.post("/v1/batches:estimate", json=asked) for _ in range(3)]
    codes = ["tokenizer_unknown", "tokenizer_unknown", "rate_limit_exceeded"]
    assert [refusal(answer)[1] for answer in answers] == codes
