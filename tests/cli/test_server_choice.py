"""Which place the commands ask, and what they say of a server that does not do it."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.cli.console import Console, assert_one_sentence
from tests.cli.served import serve_home
from tests.store.builders import submit
from tools.serving import serving_app


def test_a_flag_wins_over_the_environment_and_there_the_server(tmp_path: Path) -> None:
    nowhere = Console(tmp_path / "nowhere", {"NIGHTSHIFT_URL": "http://127.0.0.1:1"})
    with serve_home(tmp_path) as served:
        url, batch = served.url, submit(served.database, 1)
        database_url = f"sqlite:///{served.local.home / 'nightshift.db'}"
        for flags in (("--url", url), ("--url", f"{url}/v1/"), ("--database-url", database_url)):
            assert batch.id in nowhere.succeed(*flags, "status")
        variables = {"NIGHTSHIFT_URL": url, "NIGHTSHIFT_DATABASE_URL": "sqlite:///nothing.db"}
        assert batch.id in Console(tmp_path / "nowhere", variables).succeed("status")


def test_two_places_at_once_are_refused(console: Console) -> None:
    flags = ("--url", "http://127.0.0.1:1", "--database-url", "sqlite:///nothing.db")
    ended = console.call(*flags, "status")
    assert ended.returncode == 2
    assert_one_sentence(ended, "--url and --database-url", "give only one")


@pytest.mark.parametrize(
    "command",
    [
        ("run", "in.jsonl", "-o", "out.jsonl", "--model", "demo"),
        ("worker", "--model", "demo"),
        ("serve",),
        ("model", "list"),
        ("db", "upgrade"),
        ("generate", "x", "--model", "demo"),
    ],
)
def test_what_works_on_this_machine_refuses_a_server(
    console: Console, command: tuple[str, ...]
) -> None:
    ended = console.call("--url", "http://127.0.0.1:1", *command)
    assert ended.returncode == 2
    assert_one_sentence(ended, "works on this machine: leave out --url")


def test_what_works_on_this_machine_ignores_the_variable(console: Console) -> None:
    elsewhere = Console(console.home, {"NIGHTSHIFT_URL": "http://127.0.0.1:1"})
    assert "no model yet" in elsewhere.call("model", "list").stderr


def test_a_key_is_not_taken_from_a_command_line(console: Console) -> None:
    ended = console.call("--set", "api_key=secret", "status")
    assert ended.returncode == 2
    assert_one_sentence(ended, "NIGHTSHIFT_API_KEY is read from the environment only")
    assert "secret" not in ended.stderr


# --- a server that does not do it --------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [("status",), ("wait", "batch_1"), ("results", "batch_1", "--follow"), ("retry", "batch_1")],
)
def test_a_server_that_is_away(console: Console, command: tuple[str, ...]) -> None:
    ended = console.call("--url", "http://u:secret@127.0.0.1:1", *command)
    assert ended.returncode == 4
    assert_one_sentence(ended, "http://127.0.0.1:1 cannot be reached", "NIGHTSHIFT_URL")
    assert "secret" not in ended.stderr


def test_a_url_that_is_none(console: Console) -> None:
    ended = console.call("--url", "postgresql://u:secret@db/x", "status")
    assert ended.returncode == 2
    assert_one_sentence(ended, "NIGHTSHIFT_URL cannot be used; give http://HOST:PORT")
    assert "secret" not in ended.stderr


def error(status: int, message: str, **headers: str) -> Response:
    body = {"message": message, "type": "t", "param": None, "code": None}
    return JSONResponse({"error": body}, status, headers=headers)


def test_a_key_that_is_refused_is_named(console: Console) -> None:
    seen: list[str | None] = []

    def refuse(request: Request) -> Response:
        seen.append(request.headers.get("authorization"))
        return error(401, "this key is unknown")

    with serving_app(Starlette(routes=[Route("/v1/batches", refuse)])) as url:
        settings = {"NIGHTSHIFT_URL": url, "NIGHTSHIFT_API_KEY": "secret"}
        ended = Console(console.home, settings).call("status")
    assert ended.returncode == 2
    assert_one_sentence(ended, "NIGHTSHIFT_API_KEY", "this key is unknown")
    assert seen == ["Bearer secret"]


def test_a_limit_is_waited_for(console: Console) -> None:
    answers = [
        error(429, "at most 60 a minute", **{"retry-after": "1"}),
        JSONResponse({"data": []}),
    ]

    def limit(_request: Request) -> Response:
        return answers.pop(0)

    with serving_app(Starlette(routes=[Route("/v1/batches", limit)])) as url:
        ended = console.call("--url", url, "status", "--json")
    assert (ended.returncode, ended.stdout, answers) == (0, "[]\n", [])
    assert "asks for a pause of 1 s: at most 60 a minute" in ended.stderr


def test_something_else_at_that_address(console: Console) -> None:
    def page(_request: Request) -> Response:
        return PlainTextResponse("<html>")

    with serving_app(Starlette(routes=[Route("/v1/batches", page)])) as url:
        for command in (("status",), ("status", "batch_1")):
            ended = console.call("--url", url, *command)
            assert ended.returncode == 4
            assert_one_sentence(ended, "not as a Nightshift server does")
