"""The real `nightshift` as a child process: what a user's shell would start."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cli.__main__ import main

TIMEOUT_S = 120


def command_line(*arguments: str | Path) -> list[str]:
    """The console script of the environment that runs the tests."""
    return [str(Path(sys.executable).with_name("nightshift")), *map(str, arguments)]


@dataclass(frozen=True, slots=True)
class Console:
    """Runs commands against one home folder; nothing else of the caller's settings is seen."""

    home: Path
    settings: Mapping[str, str] = field(default_factory=dict)  # more NIGHTSHIFT_ variables

    def run(self, *arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run to the end; the result has `returncode`, `stdout` and `stderr`."""
        return subprocess.run(
            command_line(*arguments),
            env=self.environment(),
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT_S,
            check=False,
        )

    def call(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """The same inside this process, which saves the time of starting one."""
        given = [str(argument) for argument in arguments]
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, _logging_as_before():
            for name, value in self._settings().items():
                patch.setenv(name, value)
            with redirect_stdout(out), redirect_stderr(err):
                code = main(given)
        return subprocess.CompletedProcess(given, code, out.getvalue(), err.getvalue())

    def succeed(self, *arguments: str | Path) -> str:
        """Call and return stdout; fails the test for any exit code but 0."""
        ended = self.call(*arguments)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start without waiting, both outputs in pipes; the test ends it."""
        return subprocess.Popen(
            command_line(*arguments),
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def environment(self) -> dict[str, str]:
        """The child's environment."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("NIGHTSHIFT_")}
        return {**kept, **self._settings()}

    def _settings(self) -> dict[str, str]:
        return {"NIGHTSHIFT_HOME": str(self.home), **self.settings}


@contextmanager
def _logging_as_before() -> Iterator[None]:
    """A command configures logging for its process, which here is the tests' own."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def assert_one_sentence(ended: subprocess.CompletedProcess[str], *parts: str) -> None:
    """The command told one sentence with these parts, and no traceback."""
    lines = ended.stderr.strip().splitlines()
    assert "Traceback" not in ended.stderr
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("nightshift: ")
    for part in parts:
        assert part in lines[0]
