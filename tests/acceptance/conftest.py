"""Fixtures that the acceptance tests share with the command line's."""

from __future__ import annotations

from tests.cli.conftest import console, demo_console, models_home

__all__ = ["console", "demo_console", "models_home"]
