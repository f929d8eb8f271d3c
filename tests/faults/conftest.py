"""Servers that tests may kill, and a rig on them for each test."""

from __future__ import annotations

from collections.abc import Iterator
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
