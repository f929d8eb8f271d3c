"""Counts requests and how long answers take to begin, by the template of their route.

Labels come from the application's own routes and from fixed sets: no caller can add a new one.
"""

from __future__ import annotations

import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OTHER: Final = "other"
_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_BUCKETS_S: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class HttpMetrics:
    """The figures of one application."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "nightshift_http_requests",
            "Requests that this process has answered.",
            ("route", "method", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "nightshift_http_answer_begins_seconds",
            "From a request's arrival to the first byte of its answer.",
            ("route", "method"),
            buckets=_BUCKETS_S,
            registry=registry,
        )

    def note(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request whose answer has begun; `scope` went through the router."""
        route = getattr(scope.get("route"), "path", OTHER)
        method = scope["method"] if scope["method"] in _METHODS else OTHER
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route, method).observe(seconds)


class CountRequests:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_at = time.monotonic()
        is_answered = False

        async def send_noted(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                self._metrics.note(scope, message["status"], time.monotonic() - began_at)
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except BaseException:
            if not is_answered:  # what is around this middleware answers
                self._metrics.note(scope, 500, time.monotonic() - began_at)
            raise
