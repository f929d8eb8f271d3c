"""Fixtures that every test may use: a clean environment and real servers, started once a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.servers import PostgresServer, RedisServer, started

# IPEX needs an old torch, so it has an environment of its own: `make test-ipex`.
collect_ignore = [] if find_spec("intel_extension_for_pytorch") else ["ipex"]
if find_spec("hypothesis"):  # which is not in that one
    from tests.fuzz.budget import load_profiles

    load_profiles()


@pytest.fixture(scope="session", autouse=True)
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The caller's settings and tokens do not reach the tests, nor the tests the caller's data."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in [name for name in os.environ if name.startswith("NIGHTSHIFT_")]:
            patch.delenv(variable)
        patch.delenv("HF_TOKEN", raising=False)
        patch.setenv("NIGHTSHIFT_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A running Redis; shared by all tests, so `flushall` it before relying on what it holds."""
    with started(RedisServer()) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL; every test makes its own database with `create_database`."""
    with started(PostgresServer()) as server:
        yield server
