"""One suite over both databases: every test that takes `database` runs on each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from models.database import Database, connect_database, upgrade
from models.tables import metadata
from tests.servers import PostgresServer


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without tables, of one test alone."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'nightshift.db'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.create_database()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An open database with all tables and no rows."""
    if request.param == "postgresql":
        yield request.getfixturevalue("postgres_database")
        return
    with upgrade(f"sqlite:///{tmp_path / 'nightshift.db'}") as opened:
        yield opened


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[Database]:
    """PostgreSQL alone; the tables are made once a run, because making a database is slow."""
    with connect_database(postgres_url) as opened:
        names = ", ".join(table.name for table in metadata.sorted_tables)
        with opened.begin() as connection:
            connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
        yield opened


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """The database that `postgres_database` empties."""
    url = postgres_server.create_database()
    upgrade(url).close()
    return url
