"""Joins over a whole batch, kept fast on PostgreSQL. Must not know what is joined."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, func, select


@contextmanager
def whole_batch_join(connection: Connection) -> Iterator[None]:
    """While inside, PostgreSQL joins by hash or merge.

    It has no statistics yet of a batch that was submitted a moment ago: it expects one row instead
    of 50,000 and would compare each with each.
    """
    if connection.dialect.name != "postgresql":
        yield
        return
    connection.execute(select(func.set_config("enable_nestloop", "off", True)))
    yield
    connection.execute(select(func.set_config("enable_nestloop", "on", True)))
