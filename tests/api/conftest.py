"""Fixtures that the API's tests share with those of the command line."""

from __future__ import annotations

from tests.api.running import served
from tests.cli.conftest import demo_console, models_home

__all__ = ["demo_console", "models_home", "served"]
