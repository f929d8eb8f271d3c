"""Fixtures of the client's tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No pause is made between two calls: the list fills with those that were asked for."""
    asked: list[float] = []
    monkeypatch.setattr("time.sleep", asked.append)
    return asked
