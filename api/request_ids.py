"""Every answer gets an `x-request-id`, and every request a line in the log."""

from __future__ import annotations

import logging
import re
import time
import uuid
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
SCOPE_KEY = "nightshift.request_id"  # for the framework's own last handler, which is outside
_GIVEN = re.compile(r"[A-Za-z0-9._-]{1,128}")

_log = logging.getLogger(__name__)


class RequestIds:
    """ASGI middleware, outside all others; a usable id that the client sends is kept."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _GIVEN.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        scope[SCOPE_KEY] = request_id
        began_at, status = time.monotonic(), 500

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        finally:
            seconds = round(time.monotonic() - began_at, 4)
            fields = {"request": request_id, "status": status, "seconds": seconds}
            # Quoted as it came: a line end in it would begin a line of its own in the log.
            _log.info("%s %s", scope["method"], quote(scope["path"], safe="/:"), extra=fields)
