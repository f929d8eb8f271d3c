"""The client's methods, against a script: what is asked, what comes back, what is survived."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import assert_type

import httpx2
import pytest

import nightshift
from models.states import BatchState, is_terminal
from nightshift import TERMINAL, Batch, Client, NightshiftError, Result, UnavailableError
from tests.client.scripted import URL, Script, answer, batch, page, refusal, result

LOST = httpx2.ReadError("the connection broke")


def test_the_public_names_are_these() -> None:
    assert set(nightshift.__all__) == {
        "TERMINAL",
        "Batch",
        "Client",
        "InputError",
        "Json",
        "NightshiftError",
        "NotFoundError",
        "Result",
        "StateError",
        "UnavailableError",
    }
    assert all(hasattr(nightshift, name) for name in nightshift.__all__)
    assert Path(nightshift.__file__).with_name("py.typed").is_file()


def test_importing_it_loads_neither_server_nor_database_nor_model() -> None:
    heavy = ("torch", "sqlalchemy", "celery", "fastapi", "pydantic", "typer")
    script = f"import nightshift, sys; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_the_final_states_are_those_of_the_state_machine() -> None:
    assert {str(state) for state in BatchState if is_terminal(state)} == TERMINAL


def test_what_comes_back_has_types() -> None:
    script = Script([answer(batch()), page("completed", result(1)), page("completed")])
    with script.client() as client:
        assert_type(client.batch("batch_1"), Batch)
        (found,) = client.follow("batch_1")
        assert_type(found, Result)
        assert_type(found.custom_id, str | None)


# --- waiting and following ---------------------------------------------------------------------


def test_waiting_tells_how_far_it_is(pauses: list[float]) -> None:
    counts = [{"total": 3, "completed": done, "failed": 0} for done in range(3)]
    stages = [batch(request_counts=each) for each in counts]
    script = Script([*map(answer, stages), LOST, answer(batch("completed"))])
    told: list[Batch] = []
    with script.client() as client:
        ended = client.wait("batch_1", on_progress=told.append)
    assert ended["status"] == "completed"
    assert told == [*stages, ended]
    assert script.paths == ["GET /v1/batches/batch_1?wait=5"] * 5
    assert len(pauses) == 4


def test_waiting_ends_with_its_timeout(
    pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 100.0 + sum(pauses))
    script = Script([answer(batch()), answer(batch())])
    with script.client() as client:
        assert client.wait("batch_1", timeout_s=0.05)["status"] == "in_progress"
    assert script.paths == ["GET /v1/batches/batch_1?wait=0"] * 2


def test_following_survives_what_breaks_and_gives_every_result_once(pauses: list[float]) -> None:
    script = Script(
        [
            page("in_progress"),
            page("in_progress", result(1), result(2)),
            LOST,
            refusal(503, "the database is away", **{"retry-after": "5"}),
            httpx2.Response(502, text="<html>a proxy"),
            page("in_progress", result(3)),
            page("completed", result(4)),
            page("completed"),
        ]
    )
    with script.client() as client:
        found = list(client.follow("batch_1"))
    assert [each.cursor for each in found] == [1, 2, 3, 4]
    assert [each.custom_id for each in found] == ["r1", "r2", "r3", "r4"]
    assert "cursor" not in found[0].line
    after = [request.url.params["after"] for request in script.asked]
    assert after == ["0", "0", "2", "2", "2", "2", "3", "4"]
    assert max(pauses) == 5


def test_following_goes_on_where_another_program_stopped(pauses: list[float]) -> None:
    script = Script([page("completed", result(8, status_code=400)), page("completed")])
    with script.client() as client:
        (found,) = client.follow("batch_1", after=7)
    assert not found.is_answer
    assert script.asked[0].url.params["after"] == "7"
    assert pauses == []


def test_what_is_there_now_ends_without_waiting(pauses: list[float]) -> None:
    script = Script([page("in_progress", result(1)), page("in_progress")])
    with script.client() as client:
        assert [each.is_answer for each in client.follow("batch_1", to_end=False)] == [True]
    assert pauses == []


def test_following_gives_up_in_the_end(pauses: list[float]) -> None:
    away = httpx2.ConnectError("refused")
    script = Script([page("in_progress", result(1)), *[away] * 20])
    with script.client() as client, pytest.raises(UnavailableError, match=r"refused.*serve"):
        list(client.follow("batch_1"))
    assert 60 < sum(pauses) < 100


def test_a_server_that_was_never_there_is_told_at_once(pauses: list[float]) -> None:
    for wait in (lambda client: client.wait("batch_1"), lambda client: [*client.follow("batch_1")]):
        pauses.clear()
        script = Script([httpx2.ConnectError("refused")] * 5)
        with script.client() as client, pytest.raises(UnavailableError):
            wait(client)
        assert sum(pauses) < 5


# --- what OpenAI's API has not -----------------------------------------------------------------


def test_a_retry_names_the_errors_that_are_meant() -> None:
    script = Script([answer(batch()), answer(batch())])
    with script.client() as client:
        client.retry("batch_1")
        client.retry("batch_1", error_codes=["request_timeout", "worker_lost"])
    assert script.paths == ["POST /v1/batches/batch_1/retry"] * 2
    bodies = [json.loads(request.content) for request in script.asked]
    assert bodies == [{}, {"error_codes": ["request_timeout", "worker_lost"]}]


def test_a_retry_that_is_sent_again_is_known_by_its_key(pauses: list[float]) -> None:
    script = Script([LOST, answer(batch()), answer(batch())])
    with script.client() as client:
        client.retry("batch_1")
        client.retry("batch_1")
    first, again, other = [request.headers["idempotency-key"] for request in script.asked]
    assert first == again != other
    assert len(pauses) == 1


def test_the_other_calls(pauses: list[float]) -> None:
    asked = {"input_file_id": "file-1", "endpoint": "/v1/completions"}
    script = Script(
        [
            LOST,
            answer(batch("in_progress", nightshift={"paused": True})),
            answer(batch()),
            answer({"counts": {}}),
            answer({"requests": 3}),
            answer({"object": "list", "data": [{"id": "w1"}]}),
            answer({"object": "list", "data": [{"id": "demo:int8"}]}),
        ]
    )
    with script.client() as client:
        assert client.pause("batch_1")["nightshift"] == {"paused": True}
        assert client.resume("batch_1")["status"] == "in_progress"
        assert client.manifest("batch_1") == {"counts": {}}
        assert client.estimate(asked) == {"requests": 3}
        assert client.workers() == [{"id": "w1"}]
        assert client.canaries() == [{"id": "demo:int8"}]
    assert script.paths == [
        "POST /v1/batches/batch_1/pause",
        "POST /v1/batches/batch_1/pause",
        "POST /v1/batches/batch_1/resume",
        "GET /v1/batches/batch_1/manifest",
        "POST /v1/batches:estimate",
        "GET /v1/workers",
        "GET /v1/canaries",
    ]
    assert json.loads(script.asked[4].content) == asked
    assert len(pauses) == 1


# --- which server, which key -------------------------------------------------------------------


def test_server_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NightshiftError, match=r"give Client\(URL\), or set NIGHTSHIFT_URL"):
        Client()
    monkeypatch.setenv("NIGHTSHIFT_URL", f"{URL}/v1")
    monkeypatch.setenv("NIGHTSHIFT_API_KEY", "secret")
    script = Script([answer(batch())])
    with script.client() as client:
        client.batch("a/b")
    assert script.paths == ["GET /v1/batches/a%2Fb"]
    assert script.asked[0].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize("url", [URL, f"{URL}/", f"{URL}/v1", f"{URL}/v1/"])
def test_the_url_of_the_openai_client_will_do(url: str) -> None:
    seen: list[str] = []

    def see(request: httpx2.Request) -> httpx2.Response:
        seen.append(str(request.url))
        assert "authorization" not in request.headers
        return answer(batch())

    with Client(url, transport=httpx2.MockTransport(see)) as client:
        client.batch("batch_1")
    assert seen == [f"{URL}/v1/batches/batch_1"]


def test_a_closed_client_does_nothing_more() -> None:
    client = Script([answer(batch())]).client()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.batch("batch_1")
