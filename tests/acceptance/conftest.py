"""Fixtures that the acceptance tests share with those of the command line and of Celery."""

from __future__ import annotations

from tests.celery.conftest import database, node_environment, registry_home
from tests.cli.conftest import console, demo_console, models_home

__all__ = [
    "console",
    "database",
    "demo_console",
    "models_home",
    "node_environment",
    "registry_home",
]
