"""One suite over both databases: every test that takes `database` runs on each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.database import Database, upgrade


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that is empty and of one test alone."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'nightshift.db'}"
    url: str = request.getfixturevalue("postgres_server").create_database()
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database with all tables."""
    with upgrade(database_url) as opened:
        yield opened
