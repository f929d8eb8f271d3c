"""The HTTP API, or another application, in a thread of this process while a block lasts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from api.app import create_app
from api.gate import LOOPBACK
from models.database import Database
from models.settings import Settings

_START_TIMEOUT_S = 30.0
_POLL_PERIOD_S = 0.01


@contextmanager
def serving(settings: Settings, database: Database, *, host: str = LOOPBACK) -> Iterator[str]:
    """The URL, without a path, of the API over this database on a free port.

    The port is one of loopback; the API takes itself to listen on `host`.
    """
    with serving_app(create_app(settings, database, host=host)) as url:
        yield url


@contextmanager
def serving_app(app: ASGIApp) -> Iterator[str]:
    """The URL, without a path, of this application on a free port."""
    config = uvicorn.Config(
        app,
        host=LOOPBACK,
        port=0,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        _wait_until_started(server, thread)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://{LOOPBACK}:{port}"
    finally:
        server.should_exit = True
        thread.join()


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the server did not start: its log says why")
        time.sleep(_POLL_PERIOD_S)
