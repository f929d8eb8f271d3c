"""A worker's own connections to the database."""

from __future__ import annotations

from typing import Final

from models.database import IDLE_TRANSACTION_S, Database, connect_database
from models.settings import Settings

_IDLE_PART: Final = 1 / 3  # of a lease


def connect_worker(settings: Settings) -> Database:
    """Connect with a bound on transactions that are left in the middle.

    A worker that is cut off or frozen within a commit keeps its chunk and its batch locked: nobody
    could take the chunk when its lease has run out, and nobody commit to the batch. A long lease
    is no reason to wait longer than for all other programs: others work on the batch meanwhile.
    """
    url = settings.resolved_database_url
    idle_s = min(settings.lease_ttl_s * _IDLE_PART, IDLE_TRANSACTION_S)
    return connect_database(url, create=url.startswith("sqlite"), idle_transaction_s=idle_s)
