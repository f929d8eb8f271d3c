"""The database's clock as SQL expressions: the only clock that leases and states rely on.

Float seconds since the Unix epoch. Must not know any table.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Double, ScalarSelect, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class db_now(FunctionElement[float]):
    """`db_now()`: the time at the database while the statement runs."""

    name = "db_now"
    type = Double()
    inherit_cache = True


def moment() -> ScalarSelect[float]:
    """`db_now()` as one value for the whole statement, which can be looked for in an index.

    PostgreSQL compares a clock that goes on while rows are read with each of them instead.
    """
    return select(db_now()).scalar_subquery()


@compiles(db_now, "postgresql")
def _on_postgresql(_element: db_now, _compiler: SQLCompiler, **_options: Any) -> str:
    # clock_timestamp, not now(): a transaction that waited for a lock must see the time after it.
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


@compiles(db_now, "sqlite")
def _on_sqlite(_element: db_now, _compiler: SQLCompiler, **_options: Any) -> str:
    # unixepoch('subsec') needs SQLite 3.42; julianday resolves about 0.05 ms.
    return "((julianday('now') - 2440587.5) * 86400.0)"
