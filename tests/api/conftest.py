"""Fixtures that the API's tests share with those of the command line and of the store."""

from __future__ import annotations

from tests.api.hooks import receiver
from tests.api.running import served
from tests.cli.conftest import demo_console, models_home
from tests.store.conftest import database, postgres_database, postgres_url

__all__ = [
    "database",
    "demo_console",
    "models_home",
    "postgres_database",
    "postgres_url",
    "receiver",
    "served",
]
