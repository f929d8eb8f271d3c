"""The engine process's own loop, over a backend that can be told to fail."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.generation import Frozen, TextPrompt
from worker.backends.messages import EVENTS, Add, Failed, Finished, Progress, Ready, to_line

ROOT = Path(__file__).resolve().parents[2]
END_S = 20.0


class Client:
    """The parent's end of the socket, and the process at the other."""

    def __init__(self, channel: socket.socket, process: subprocess.Popen[bytes]) -> None:
        channel.settimeout(END_S)
        self.channel = channel
        self.process = process
        self._lines = channel.makefile("rb")

    def send(self, *messages: Frozen) -> None:
        self.channel.sendall(b"".join(map(to_line, messages)))

    def events(self) -> Iterator[Frozen]:
        """Every event until the process closes its end."""
        with self._lines:
            yield from map(EVENTS.validate_json, self._lines)

    def finished(self, keys: set[str]) -> dict[str, Finished]:
        """Receive until all keys are finished."""
        got: dict[str, Finished] = {}
        for line in self._lines:
            event = EVENTS.validate_json(line)
            if isinstance(event, Finished):
                got[event.key] = event
                if keys <= got.keys():
                    return got
        raise AssertionError(f"the process ended without {keys - got.keys()}")


@contextmanager
def server(kind: str = "works") -> Iterator[Client]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.backends.scripted_server", str(theirs.fileno()), kind],
            pass_fds=(theirs.fileno(),),
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        theirs.close()
        with process:
            client = Client(ours, process)
            try:
                yield client
            finally:
                client._lines.close()
                process.kill()


def add(key: str, text: str) -> Add:
    return Add(key=key, prompt=TextPrompt(text=text))


def text_of(event: Finished) -> str:
    assert event.generation is not None
    return event.generation.choices[0].text


def test_ready_comes_first_and_answers_follow_whatever_libraries_print() -> None:
    with server() as client:
        client.send(add("a", "one"), add("b", "two\nlines \u2028 and \U0001f319"))
        finished = client.finished({"a", "b"})
        assert text_of(finished["a"]) == "one"
        assert text_of(finished["b"]) == "two\nlines \u2028 and \U0001f319"


def test_a_prompt_that_breaks_the_tokenizer_is_refused_alone() -> None:
    with server() as client:
        client.send(add("bad", "break the tokenizer"), add("good", "fine"))
        finished = client.finished({"bad", "good"})
        refusal = finished["bad"].refusal
        assert refusal is not None
        assert (refusal.code, refusal.http_status) == ("server_error", 500)
        assert text_of(finished["good"]) == "fine"


def test_a_step_that_fails_ends_the_process() -> None:
    with server() as client:
        client.send(add("a", "crash"))
        kinds = {type(event) for event in client.events()}
        assert kinds <= {Ready, Progress}
        assert client.process.wait(END_S) == 1


def test_the_end_of_the_socket_ends_the_process() -> None:
    with server() as client:
        client.send(add("a", "one"))
        client.finished({"a"})
        client.channel.shutdown(socket.SHUT_WR)
        assert client.process.wait(END_S) == 0


def test_half_a_command_at_the_end_is_ignored() -> None:
    with server() as client:
        client.channel.sendall(to_line(add("a", "one"))[:-20])
        client.channel.shutdown(socket.SHUT_WR)
        assert not [event for event in client.events() if isinstance(event, Finished)]
        assert client.process.wait(END_S) == 0


def test_what_is_no_command_ends_the_process() -> None:
    with server() as client:
        client.channel.sendall(b'{"kind": "unheard of"}\n')
        assert client.process.wait(END_S) == 1


def test_errors_while_loading_are_told_by_name() -> None:
    for kind, error, words in (
        ("unsupported", "UnsupportedModel", "not supported"),
        ("bug", "EngineError", "ZeroDivisionError"),
    ):
        with server(kind) as client:
            (event,) = client.events()
            assert isinstance(event, Failed)
            assert event.error == error
            assert words in event.message
            assert client.process.wait(END_S) == 0
