"""Servers that tests may kill, and a rig on them for each test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.rig import Rig, rig, servers
from tests.servers import PostgresServer, RedisServer

Servers = tuple[RedisServer, PostgresServer]


@pytest.fixture(scope="session")
def own_servers() -> Iterator[Servers]:
    """Shared by the tests of this folder alone; a rig starts what the last test stopped."""
    with servers() as made:
        yield made


@pytest.fixture
def faults(tmp_path: Path, own_servers: Servers) -> Iterator[Rig]:
    """A rig without workers; afterwards no process may be left."""
    with rig(tmp_path, *own_servers) as made:
        yield made
    made.wait_nobody_left()


@dataclass
class Figures:
    """What was measured beside each promise; printed after the tests."""

    lines: list[str] = field(default_factory=list)

    def note(self, promise: str, measured: str) -> None:
        self.lines.append(f"{promise}: {measured}")


_FIGURES = pytest.StashKey[Figures]()


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    """Where a test notes what it measured."""
    return pytestconfig.stash.setdefault(_FIGURES, Figures())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the figures."""
    noted = config.stash.get(_FIGURES, Figures())
    if noted.lines:
        terminalreporter.section("measured")
        for line in noted.lines:
            terminalreporter.line(line)
