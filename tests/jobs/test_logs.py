"""The log: JSON for machines, words for people, and never a prompt or an answer."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from tests.jobs.conftest import CHUNK_REQUESTS, JobStore, MakeRunner
from worker.logs import configure_logging


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_every_line_is_json_away_from_a_terminal() -> None:
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    logging.getLogger("worker").info("chunk done", extra={"chunk": 7})
    line = json.loads(stream.getvalue())
    assert (line["message"], line["chunk"], line["level"]) == ("chunk done", 7, "INFO")
    assert set(line) == {"time", "level", "logger", "message", "chunk"}


def test_a_terminal_gets_plain_lines() -> None:
    stream = Terminal()
    configure_logging("info", stream=stream)
    logging.getLogger("worker").warning("away")
    assert stream.getvalue().rstrip().endswith("WARNING away")


def test_the_level_is_obeyed() -> None:
    stream = io.StringIO()
    configure_logging("warning", stream=stream)
    logging.getLogger("worker").info("not wanted")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("redis://user:p%40ss@host:6379/0", "redis://***@host:6379/0"),
        ("rediss://:pass@host/0", "rediss://***@host/0"),
        ("postgresql+psycopg://a:b@c/d", "postgresql+psycopg://***@c/d"),
        ("hf_abcdefghIJKL1234", "***"),
        (f"ns_{'0' * 16}_{'a' * 64}", "***"),
    ],
)
@pytest.mark.parametrize("stream_kind", [io.StringIO, Terminal])
def test_secrets_are_blanked_wherever_they_stand(
    secret: str, shown: str, stream_kind: type[io.StringIO]
) -> None:
    stream = stream_kind()
    configure_logging("info", stream=stream)
    try:
        raise ValueError(f"cannot use {secret} here")
    except ValueError:
        logging.getLogger("some.library").exception("with %s", secret, extra={"url": secret})
    said = stream.getvalue()
    assert secret not in said
    assert said.count(shown) >= 2


def test_an_address_without_a_password_is_left_alone() -> None:
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    logging.getLogger("worker").info("see http://host:8000/v1 and a@b.example")
    assert "http://host:8000/v1 and a@b.example" in stream.getvalue()


def test_requests_are_logged_by_number_and_never_by_text(
    store: JobStore, make_runner: MakeRunner
) -> None:
    stream = io.StringIO()
    configure_logging("debug", stream=stream)
    batch_id = store.submit(CHUNK_REQUESTS)
    make_runner().serve(until=lambda: False)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    finished = [line for line in lines if line["message"] == "request finished"]
    assert {(line["batch"], line["idx"], line["epoch"]) for line in finished} == {
        (batch_id, idx, 1) for idx in range(CHUNK_REQUESTS)
    }
    assert [line["message"] for line in lines if line["level"] == "INFO"] == [
        "chunk claimed",
        "chunk done",
    ]
    assert "prompt 00" not in stream.getvalue()
    assert "tpmorp" not in stream.getvalue()
