"""The API as an operator starts it: `nightshift serve` and a worker with the demo model."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.cli.console import Console, command_line
from tests.servers import HOST, hold_port, wait_until

STOP_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Program:
    """A running command and the file that it logs to."""

    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Fail with the end of its log when it has ended."""
        assert self.process.poll() is None, self.log.read_text(errors="replace")[-3000:]


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A running API process; `url` is without a path."""

    url: str
    program: Program


@contextmanager
def live_server(console: Console, *options: str) -> Iterator[LiveServer]:
    """`nightshift serve` on a free port until the block ends."""
    with hold_port() as held:
        port = held.getsockname()[1]
        with _running(console, "serve", "--host", HOST, "--port", str(port), *options) as program:
            server = LiveServer(f"http://{HOST}:{port}", program)
            wait_until(lambda: _is_ready(server), "the API is ready")
            yield server


@contextmanager
def live_worker(console: Console, server: LiveServer) -> Iterator[Program]:
    """`nightshift worker` with the demo model, known to the server, until the block ends."""
    with _running(console, "worker", "--model", "demo-model") as program:
        wait_until(lambda: _serves(server, program), "a worker is ready")
        yield program


@contextmanager
def _running(console: Console, *arguments: str) -> Iterator[Program]:
    log = console.home / f"{arguments[0]}.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            command_line(*arguments),
            env=console.environment(),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Program(process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        finally:
            process.kill()
            process.wait()


def _is_ready(server: LiveServer) -> bool:
    server.program.check()
    try:
        return httpx2.get(f"{server.url}/ready").status_code == 200
    except httpx2.TransportError:
        return False


def _serves(server: LiveServer, worker: Program) -> bool:
    worker.check()
    return any(found["live"] for found in httpx2.get(f"{server.url}/v1/workers").json()["data"])
