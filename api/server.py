"""Serving the application: uvicorn, one process, until a signal ends it."""

from __future__ import annotations

import sys

import uvicorn

from api.app import create_app
from models.database import Database
from models.settings import Settings

# Validation computes in a thread beside the endpoints. With Python's own 5 ms each answer would
# wait for it several times.
_SWITCH_INTERVAL_S = 0.0005
_DRAIN_S = 10


def serve(settings: Settings, database: Database, *, host: str, port: int) -> None:
    """Answer requests until SIGINT or SIGTERM; connections get some seconds to end."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    uvicorn.run(
        create_app(settings, database),
        host=host,
        port=port,
        access_log=False,  # our own has the request's id
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_S,
    )
