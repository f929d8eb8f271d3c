"""Serving the application: uvicorn, one process, until a signal ends it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from api.app import create_app
from models.database import Database
from models.errors import InputError
from models.settings import Settings

# Validation computes in a thread beside the endpoints. With Python's own 5 ms each answer would
# wait for it several times.
_SWITCH_INTERVAL_S = 0.0005
_DRAIN_S = 10


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises InputError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as exc:
        raise InputError(
            f"{host}:{port} cannot be listened on ({exc.strerror}): choose another --host or --port"
        ) from exc
    # Its connections inherit it. Otherwise the second write of an answer waits for the client's
    # acknowledgement of the first, 40 ms; asyncio would not set it on a socket made like this one.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def serve(settings: Settings, database: Database, listening: socket.socket) -> None:
    """Answer requests until SIGINT or SIGTERM; connections get some seconds to end."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    app = create_app(settings, database, host=str(listening.getsockname()[0]))
    config = uvicorn.Config(
        app,
        access_log=False,  # our own has the request's id
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_S,
    )
    _Server(config, app.state.services.watchers.stop).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends with exit code 0 when it was asked to end; uvicorn would kill itself by the signal."""

    def __init__(self, config: uvicorn.Config, release: Callable[[], None]) -> None:
        super().__init__(config)
        self._release = release  # connections that would stay for as long as a batch runs

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The first signal drains, the next one ends at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._release()
