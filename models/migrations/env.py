"""Alembic runs this file for every command; the connection is handed in by `run.py`."""

from __future__ import annotations

from alembic import context

from models.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # The caller's transaction is the lock and the unit of the upgrade.
    transactional_ddl=False,
)
context.run_migrations()
