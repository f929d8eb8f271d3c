"""One Chromium for the folder; a database, a server and watched pages for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from models.database import Database, upgrade
from models.settings import Settings
from tests.page.visitor import Visitor
from tools.chromium import chromium
from tools.serving import serving


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    # Not for the whole run: while Playwright lives, its event loop counts as running here.
    with chromium() as launched:
        yield launched


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with upgrade(f"sqlite:///{tmp_path / 'nightshift.db'}") as opened:
        yield opened


@pytest.fixture
def url(tmp_path: Path, database: Database) -> Iterator[str]:
    with serving(Settings(home=tmp_path), database) as address:
        yield address


@pytest.fixture
def keyed_url(tmp_path: Path, database: Database) -> Iterator[str]:
    """Of a server that asks for keys."""
    with serving(Settings(home=tmp_path, require_keys=True), database) as address:
        yield address


@pytest.fixture
def visitor(browser: Browser, url: str) -> Iterator[Visitor]:
    """Opens pages, and fails the test when any of them complained on its console."""
    yield from _watched(browser, url)


@pytest.fixture
def guest(browser: Browser, keyed_url: str) -> Iterator[Visitor]:
    """A visitor of the server that asks for keys."""
    yield from _watched(browser, keyed_url)


def _watched(browser: Browser, url: str) -> Iterator[Visitor]:
    visitor = Visitor(browser, url)
    yield visitor
    visitor.leave()
    assert visitor.complaints == []
