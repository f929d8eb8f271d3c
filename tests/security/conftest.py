"""Fixtures of other folders: databases, and an API that asks for keys."""

from __future__ import annotations

from tests.api.conftest import url
from tests.store.conftest import database, postgres_database, postgres_url

__all__ = ["database", "postgres_database", "postgres_url", "url"]
