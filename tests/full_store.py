"""A database of SQLite that is really full: the file may not grow by a single page."""

from __future__ import annotations

import sqlite3

from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext

from models.database import Database

_NO_LIMIT_PAGES = 2**30


class FullStore:
    """Over all connections of one Database object; what needs a new page is refused while full.

    Rows that fit into the pages that are there are still taken, so tests write long ones.
    """

    def __init__(self, database: Database) -> None:
        self.is_full = False
        self.refused = 0  # statements
        event.listen(database._engine, "checkout", self._limit)
        event.listen(database._engine, "handle_error", self._count)

    def _limit(self, connection: sqlite3.Connection, *_: object) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        limit = pages if self.is_full else _NO_LIMIT_PAGES
        connection.execute(f"PRAGMA max_page_count = {limit}")

    def _count(self, context: ExceptionContext) -> None:
        code = getattr(context.original_exception, "sqlite_errorcode", None)
        self.refused += code == sqlite3.SQLITE_FULL
