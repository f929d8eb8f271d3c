"""The HTTP API in a thread of this process, for as long as a block lasts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from api.app import create_app
from models.database import Database
from models.settings import Settings

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 30.0
_POLL_PERIOD_S = 0.01


@contextmanager
def serving(settings: Settings, database: Database) -> Iterator[str]:
    """The URL, without a path, of the API over this database on a free port."""
    config = uvicorn.Config(
        create_app(settings, database),
        host=_HOST,
        port=0,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="api")
    thread.start()
    try:
        _wait_until_started(server, thread)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://{_HOST}:{port}"
    finally:
        server.should_exit = True
        thread.join()


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the API did not start: its log says why")
        time.sleep(_POLL_PERIOD_S)
