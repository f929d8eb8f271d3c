"""Joins over a whole batch, and looks for its first row, kept fast on PostgreSQL.

It has no statistics yet of what was stored a moment ago. Must not know what is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, func, select


@contextmanager
def whole_batch_join(connection: Connection) -> Iterator[None]:
    """While inside, PostgreSQL joins by hash or merge.

    Of a new batch it expects one row instead of 50,000 and would compare each with each.
    """
    if connection.dialect.name != "postgresql":
        yield
        return
    connection.execute(select(func.set_config("enable_nestloop", "off", True)))
    yield
    connection.execute(select(func.set_config("enable_nestloop", "on", True)))


def first_by_index(connection: Connection) -> None:
    """Until the transaction ends, PostgreSQL walks along an index to the first row that fits.

    Expecting one row, it would fetch all 50,000 and sort them.
    """
    if connection.dialect.name == "postgresql":
        # What is forbidden counts as endless: without the last, that would start its compiler.
        names = ("enable_sort", "enable_bitmapscan", "enable_seqscan", "jit")
        connection.execute(select(*(func.set_config(name, "off", True) for name in names)))
