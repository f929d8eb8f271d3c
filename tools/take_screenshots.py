"""Takes the pictures of the page for the documentation, from made-up batches.

python -m tools.take_screenshots [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, ViewportSize

from models.database import upgrade
from models.settings import Settings
from models.store.views import Batch
from tools.chromium import chromium
from tools.sample_batches import sample_batches
from tools.serving import serving

IMAGES = Path(__file__).parent.parent / "docs" / "images"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One picture."""

    name: str
    path: str
    width: int = 1200
    height: int = 860
    scheme: Literal["light", "dark"] = "light"


def shots(running: Batch, ended: Batch) -> Iterator[Shot]:
    """Every picture of the documentation."""
    path = f"/batches/{running.id}"
    yield Shot(name="batches-light", path="/", height=600)
    yield Shot(name="batches-dark", path="/", height=600, scheme="dark")
    yield Shot(name="batch-light", path=path)
    answered = f"/batches/{ended.id}?status=answered"
    yield Shot(name="requests-dark", path=f"{answered}#failures", scheme="dark")
    yield Shot(name="workers-light", path="/workers", height=400)
    yield Shot(name="batches-phone", path="/", width=360, height=900)
    yield Shot(name="batch-phone", path=path, width=360, height=900, scheme="dark")


def take(browser: Browser, url: str, shot: Shot, folder: Path) -> None:
    """Open the page and save what a window of that size shows."""
    size = ViewportSize(width=shot.width, height=shot.height)
    page = browser.new_page(viewport=size, color_scheme=shot.scheme, reduced_motion="reduce")
    page.goto(url + shot.path)
    page.screenshot(path=folder / f"{shot.name}.png")
    page.close()


def main() -> None:
    """Take all of them."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home))
        with upgrade(settings.resolved_database_url) as database, chromium() as browser:
            running, ended = sample_batches(database)
            with serving(settings, database) as url:
                for shot in shots(running, ended):
                    take(browser, url, shot, folder)
                    print(folder / f"{shot.name}.png")


if __name__ == "__main__":
    main()
