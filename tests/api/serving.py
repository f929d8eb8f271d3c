"""The application over a test's own database, served to real connections by this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

from models.database import Database
from models.settings import load_settings
from tests.servers import HOST
from tools import serving as tool

EVERYWHERE = "0.0.0.0"


@contextmanager
def serving(database: Database, *, host: str = HOST, **settings: object) -> Iterator[str]:
    """The URL of a running server without a path; `settings` are changes of the defaults.

    It takes itself to listen on `host`; on loopback it asks for keys only when `settings` say so.
    """
    changes = {"require_keys": host != HOST, **settings}
    with tool.serving(load_settings({}, **changes), database, host=host) as url:
        yield url


def client(url: str, token: str | None) -> httpx2.Client:
    """A client that sends the token; the caller closes it."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx2.Client(base_url=url, headers=headers)
