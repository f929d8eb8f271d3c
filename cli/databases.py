"""`nightshift db …`: the schema of the job store."""

from __future__ import annotations

import typer

from cli.context import load
from cli.display import say


def upgrade(context: typer.Context) -> None:
    """Create the tables, or bring those of an older version up to date."""
    from models.database import upgrade as upgrade_schema

    with upgrade_schema(load(context).resolved_database_url) as database:
        say(f"{database.url} has the schema of this version")
