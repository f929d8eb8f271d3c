"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.console import Console
from tests.cli.demo import MODEL, console_sharing_models


@pytest.fixture
def console(tmp_path: Path) -> Console:
    """The command with an empty home folder of its own."""
    return Console(tmp_path / "home")


@pytest.fixture(scope="session")
def models_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder whose registry holds the demo model in int8."""
    home = tmp_path_factory.mktemp("models")
    Console(home).succeed("model", "add", MODEL, "--weights", "int8")
    return home


@pytest.fixture
def demo_console(tmp_path: Path, models_home: Path) -> Console:
    """The command with a database of its own and the demo model."""
    return console_sharing_models(tmp_path / "home", models_home)
