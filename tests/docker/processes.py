"""Runs the installed `nightshift` as another program would, with an environment of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.docker.compose import ROOT
from tests.servers import wait_until

PROGRAMS = Path(sys.executable).parent
COMMAND_TIMEOUT_S = 240.0


def environment(**variables: str) -> dict[str, str]:
    """This process's environment with the variables, one compute thread, and our programs first."""
    path = f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "NIGHTSHIFT_THREADS": "1", **variables}


def run(words: Sequence[str], variables: Mapping[str, str]) -> str:
    """Run to the end in the checkout; returns stdout, fails with stderr unless it exits with 0."""
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def succeeds(words: Sequence[str], variables: Mapping[str, str]) -> bool:
    """Whether the command exits with 0."""
    done = subprocess.run(
        words, cwd=ROOT, env=dict(variables), capture_output=True, timeout=60, check=False
    )
    return done.returncode == 0


@contextmanager
def running(words: Sequence[str], variables: Mapping[str, str], log: Path) -> Iterator[Worker]:
    """The command in the background; killed at the end when it still runs."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            words, cwd=ROOT, env=dict(variables), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
        )
    try:
        yield Worker(process, log)
    finally:
        process.kill()
        process.wait()


class Worker:
    """A worker process in the background."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def wait_until_healthy(self, check: Sequence[str], variables: Mapping[str, str]) -> None:
        """Poll the health check; fails with the worker's words when it ends before."""

        def healthy() -> bool:
            code = self._process.poll()
            assert code is None, f"the worker ended with {code}: {self._log.read_text()[-3000:]}"
            return succeeds(check, variables)

        wait_until(healthy, "the worker is healthy", timeout_s=120)

    def terminate(self, timeout_s: float) -> int:
        """Send SIGTERM and return the exit code, which has to come within the time."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout_s)
