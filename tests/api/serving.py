"""The application over a test's own database, served to real connections by this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import uvicorn

from api.app import create_app
from models.database import Database
from models.settings import load_settings
from tests.servers import HOST, wait_until

EVERYWHERE = "0.0.0.0"
STOP_TIMEOUT_S = 30


@contextmanager
def serving(database: Database, *, host: str = HOST, **settings: object) -> Iterator[str]:
    """The URL of a running server without a path; `settings` are changes of the defaults.

    It takes itself to listen on `host`; on loopback it asks for keys only when `settings` say so.
    """
    changes = {"require_keys": host != HOST, **settings}
    app = create_app(load_settings({}, **changes), database, host=host)
    server = uvicorn.Server(uvicorn.Config(app, host=HOST, port=0, log_config=None))
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), "the server has started")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://{HOST}:{port}"
    finally:
        server.should_exit = True
        thread.join(STOP_TIMEOUT_S)


def client(url: str, token: str | None) -> httpx2.Client:
    """A client that sends the token; the caller closes it."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx2.Client(base_url=url, headers=headers)
