"""Debian's Chromium, without a window and with a fresh profile, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; each launch has a profile of its own that goes with it."""
    program = shutil.which("chromium")
    if program is None:
        raise RuntimeError(
            "chromium is missing: install it (on Debian: apt-get install chromium), or run "
            "`make servers` as root, which does that"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=list(_FLAGS), headless=True
        )
        try:
            yield browser
        finally:
            browser.close()
