"""The only statements that write a state: none can leave the machines of `models.states`.

Callers add the WHERE that picks rows. Locks are always taken chunk first, batch second, so that
no two transactions wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Insert, Table, Update, update
from sqlalchemy.dialects import postgresql, sqlite

from models.clock import db_now
from models.states import BatchState, ChunkState, sources
from models.tables import batches, chunks


def move_chunks(target: ChunkState) -> Update:
    """UPDATE chunks to `target`, of those that may go there."""
    return update(chunks).where(chunks.c.state.in_(sources(target))).values(state=str(target))


def move_batches(target: BatchState) -> Update:
    """UPDATE batches to `target` and stamp the time, of those that may go there."""
    return (
        update(batches)
        .where(batches.c.state.in_(sources(target)))
        .values({batches.c.state: str(target), batches.c[f"{target}_at"]: db_now()})
    )


def insert_new(dialect: str, table: Table, key: Sequence[str]) -> Insert:
    """INSERT that leaves rows alone whose `key` is there already; rowcount tells the new ones."""
    on_postgresql = dialect == "postgresql"
    inserting = postgresql.insert(table) if on_postgresql else sqlite.insert(table)
    ignoring = inserting.on_conflict_do_nothing(index_elements=key)
    return ignoring.execution_options(preserve_rowcount=True)
