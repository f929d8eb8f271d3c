"""Turns what a database driver raises into the project's errors, each with advice.

Must not know tables or queries.
"""

from __future__ import annotations

import sqlite3

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from models.errors import DatabaseUnavailable, NightshiftError, StorageFull

UPGRADE_ADVICE = "run `nightshift db upgrade` with the same NIGHTSHIFT_DATABASE_URL"

_SECRET_QUERY_KEYS = frozenset({"password", "sslpassword"})
_PG_DISK_FULL = "53100"
_PG_FORBIDDEN = "42501"
_PG_UNDEFINED = frozenset({"42P01", "42703"})  # table, column
# The server rolled the transaction back by itself: serialization failure, deadlock.
_PG_ROLLED_BACK = frozenset({"40001", "40P01"})


def redact(url: URL) -> str:
    """The URL for messages and logs: no password in any place."""
    query = {key: "***" if key in _SECRET_QUERY_KEYS else value for key, value in url.query.items()}
    # As people write it: which driver serves it is our business.
    plain = url.set(drivername=url.get_backend_name(), query=query)
    return plain.render_as_string(hide_password=True)


def translate(exc: DBAPIError | PoolTimeout, url: str) -> NightshiftError | None:
    """The error to raise instead, or None when the database is not to blame for it."""
    if isinstance(exc, PoolTimeout):
        return DatabaseUnavailable(
            f"all connections to the database {url} are busy: start fewer threads or try again"
        )
    if _is_full(exc):
        return StorageFull(
            f"the disk of the database {url} is full: free some space and run the same again"
        )
    if getattr(exc.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_WRITE:
        # What SQLite makes of every failed write but ENOSPC: a quota, or a limit on file sizes.
        return StorageFull(
            f"nothing more can be written to the database {url}: free some space, look for a "
            "quota, a limit on file sizes or a broken disk, and run the same again"
        )
    if _is_undefined(exc):
        return DatabaseUnavailable(
            f"the tables of the database {url} are missing or old: {UPGRADE_ADVICE}"
        )
    if getattr(exc.orig, "sqlstate", None) == _PG_FORBIDDEN:
        return DatabaseUnavailable(
            f"the database {url} refuses this role what it needs ({_first_line(exc)}): give it the "
            "rights of docs/access.md"
        )
    if _is_unavailable(exc):
        return DatabaseUnavailable(
            f"the database {url} cannot be used ({_first_line(exc)}): check that it runs, that "
            "NIGHTSHIFT_DATABASE_URL is right and that you may write to it"
        )
    return None


def may_repeat(error: NightshiftError, *, replayable: bool) -> bool:
    """Whether the transaction that ended with `error` may simply be run again.

    A connection that broke during COMMIT leaves the outcome unknown: only a transaction that may
    safely happen twice is repeated then.
    """
    cause = error.__cause__
    if not isinstance(cause, DBAPIError):
        return False
    if getattr(cause.orig, "sqlstate", None) in _PG_ROLLED_BACK:
        return True
    return replayable and cause.connection_invalidated


def _is_full(exc: DBAPIError) -> bool:
    return (
        _sqlite_code(exc) == sqlite3.SQLITE_FULL
        or getattr(exc.orig, "sqlstate", None) == _PG_DISK_FULL
    )


def _is_undefined(exc: DBAPIError) -> bool:
    if _sqlite_code(exc) == sqlite3.SQLITE_ERROR:
        message = str(exc.orig)
        return message.startswith(("no such table", "no such column")) or (
            "has no column named" in message
        )
    return getattr(exc.orig, "sqlstate", None) in _PG_UNDEFINED


def _is_unavailable(exc: DBAPIError) -> bool:
    if _sqlite_code(exc) in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
        return True
    kinds = (OperationalError, InterfaceError, InternalError)
    return exc.connection_invalidated or isinstance(exc, kinds)


def _sqlite_code(exc: DBAPIError) -> int | None:
    """The primary result code; the extended ones keep it in their low byte."""
    code = getattr(exc.orig, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF


def _first_line(exc: DBAPIError) -> str:
    lines = str(exc.orig).strip().splitlines()
    return lines[0].rstrip(".: ") if lines else type(exc.orig).__name__
