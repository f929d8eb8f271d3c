"""Fixtures of the client's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import models_home
from tests.cli.served import Served
from tests.client.answered import serve_demo

__all__ = ["models_home"]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No pause is made between two calls: the list fills with those that were asked for."""
    asked: list[float] = []
    monkeypatch.setattr("time.sleep", asked.append)
    return asked


@pytest.fixture
def served(tmp_path: Path, models_home: Path) -> Iterator[Served]:
    """A real server that knows the demo model; nobody answers yet."""
    with serve_demo(tmp_path, models_home) as server:
        yield server
