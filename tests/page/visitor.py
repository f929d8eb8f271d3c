"""Somebody with a browser, who notes every complaint of the pages that they open."""

from __future__ import annotations

from typing import Literal

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, ViewportSize

MAX_TABS = 60
_FOCUSED = "() => (document.activeElement.labels?.[0] ?? document.activeElement).textContent"
_COMPLAINTS = {"error", "warning"}  # a violated content security policy is an error too


class Visitor:
    """Open pages with `open`; `complaints` holds what their consoles said."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.url = url
        self.complaints: list[str] = []
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    def open(
        self,
        path: str,
        *,
        width: int = 1200,
        height: int = 800,
        scheme: Literal["light", "dark"] = "light",
    ) -> Page:
        """A page in a fresh profile."""
        context = self._browser.new_context(
            base_url=self.url,
            viewport=ViewportSize(width=width, height=height),
            color_scheme=scheme,
            reduced_motion="reduce",
        )
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(path)
        return page

    def leave(self) -> None:
        """Close everything."""
        for context in self._contexts:
            context.close()

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type in _COMPLAINTS:
            self.complaints.append(message.text)


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the element with this text or label has the focus."""
    seen: list[str] = []
    for _ in range(MAX_TABS):
        page.keyboard.press("Tab")
        focused = " ".join(page.evaluate(_FOCUSED).split())
        if focused == name:
            return
        seen.append(focused[:40])
    raise AssertionError(f"{name!r} is not reached by Tab, but {seen}")
