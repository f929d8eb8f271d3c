"""Fixtures of a cluster: an artifact made once, and a new database and an empty queue per test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.database import Database, upgrade
from tests.celery.cluster import MODEL, Cluster, cluster, write_tiny_model
from tests.servers import PostgresServer, RedisServer
from worker.llm.add import add_model
from worker.llm.registry import Registry

LEASE_TTL_S = 6.0
SWEEP_PERIOD_S = 1.0


@pytest.fixture(scope="session")
def registry_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose registry holds the tiny model."""
    home = tmp_path_factory.mktemp("cluster")
    source = write_tiny_model(tmp_path_factory.mktemp("tiny"))
    add_model(Registry(home / "registry"), str(source), name=MODEL.name, weights=MODEL.weights)
    return home


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    with upgrade(postgres_server.create_database()) as database:
        yield database


@pytest.fixture
def node_environment(
    registry_home: Path, redis_server: RedisServer, database: Database
) -> dict[str, str]:
    """What every node is started with; leases are short so that taking over is quick."""
    redis_server.flushall()
    return {
        "NIGHTSHIFT_HOME": str(registry_home),
        "NIGHTSHIFT_DATABASE_URL": database.url,
        "NIGHTSHIFT_BROKER_URL": redis_server.url,
        "NIGHTSHIFT_LOG_LEVEL": "debug",
        "NIGHTSHIFT_THREADS": "1",
        "NIGHTSHIFT_KV_CACHE_BYTES": str(8 * 1024**2),
        "NIGHTSHIFT_MAX_SEQUENCES": "16",
        "NIGHTSHIFT_LEASE_TTL_S": str(LEASE_TTL_S),
        "NIGHTSHIFT_RENEW_PERIOD_S": "1.5",
        "NIGHTSHIFT_SWEEP_PERIOD_S": str(SWEEP_PERIOD_S),
    }


@pytest.fixture
def nodes(tmp_path: Path, node_environment: dict[str, str]) -> Iterator[Cluster]:
    """No worker yet."""
    environment = node_environment | {"NIGHTSHIFT_DISPATCH_TIMEOUT_S": "5"}
    with cluster(tmp_path, environment) as running:
        yield running
