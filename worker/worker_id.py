"""How workers are named, and what a name tells. Knows neither database nor engine."""

from __future__ import annotations

import os
import socket
import uuid


def new_worker_id() -> str:
    """A name that no other worker ever had, readable in the database."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def maker_of(worker_id: str) -> tuple[str, int | None]:
    """The host and process that `new_worker_id` was called in; no process for a foreign name."""
    host, _, rest = worker_id.rpartition("-")
    host, _, pid = host.rpartition("-")
    return host, int(pid) if rest and pid.isdecimal() else None
