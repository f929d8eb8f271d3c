"""Transactions that must not run at once. Must not know what they do."""

from __future__ import annotations

from sqlalchemy import Connection, text


def take_turn(connection: Connection, queue: str, key: str = "") -> None:
    """Wait for all others in this queue with the same key; the turn ends with the transaction.

    On SQLite writers are single anyway.
    """
    if connection.dialect.name == "postgresql":
        lock = text("SELECT pg_advisory_xact_lock(hashtext(:queue), hashtext(:key))")
        connection.execute(lock, {"queue": f"nightshift {queue}", "key": key})
