"""Whether a worker of this host is alive: `python -m worker.health`, the container's health check.

A worker is alive while its signs of life reach the database, which a process that merely exists
does not show. Knows neither queue nor engine.
"""

from __future__ import annotations

import socket
import sys

from models.database import connect_database
from models.errors import NightshiftError
from models.settings import load_settings
from models.store.workers import live_workers


def main() -> int:
    """Exit code 0 when a worker of this host gave a sign of life within the last minute."""
    host = socket.gethostname()
    try:
        with connect_database(load_settings().resolved_database_url) as database:
            alive = [worker.id for worker in live_workers(database) if worker.host == host]
    except NightshiftError as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code
    sys.stdout.write(f"{len(alive)} live worker(s) on {host}\n")
    return 0 if alive else 1


if __name__ == "__main__":
    sys.exit(main())
