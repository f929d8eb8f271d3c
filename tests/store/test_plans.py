"""What is asked again and again is looked up in an index, however much has piled up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import event

from models.database import Database
from models.store.batches import list_batches
from models.store.creation import NewBatch, create_batch
from models.store.files import drop_stale_files, list_files
from models.store.forecast import model_speed
from tests.store.builders import CHAT, MODEL
from tests.store.test_files import TENANT, upload


@dataclass
class Asked:
    """Every query that is run, with its parameters."""

    database: Database
    queries: list[tuple[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        event.listen(self.database._engine, "before_cursor_execute", self._note)

    def _note(self, *arguments: Any) -> None:
        statement, parameters = arguments[2:4]
        if statement.startswith("SELECT"):
            self.queries.append((statement, parameters))

    def plan(self, mark: str) -> str:
        """How the database would run the last query with that text."""
        query, parameters = next(asked for asked in self.queries[::-1] if mark in asked[0])
        explain = "EXPLAIN " if self.database.dialect == "postgresql" else "EXPLAIN QUERY PLAN "
        with self.database.read() as connection:
            if self.database.dialect == "postgresql":  # which looks at the size of tables first
                for kind in ("seqscan", "sort"):
                    connection.exec_driver_sql(f"SET LOCAL enable_{kind} = off")
            rows = connection.exec_driver_sql(explain + query, parameters).all()
        return "\n".join(str(row[-1]) for row in rows)


def page_of_batches(database: Database, new: NewBatch) -> None:
    list_batches(database, after=create_batch(database, new).batch.id)


def page_of_files(database: Database, new: NewBatch) -> None:
    for oldest_first in (True, False):
        list_files(database, TENANT, limit=1, after=new.file_id, oldest_first=oldest_first)


@pytest.mark.parametrize(
    ("ask", "mark", "found_by"),
    [
        (create_batch, "repeat_until >", ["created_at"]),
        (page_of_batches, "batches.created_at <=", ["created_at"]),
        (page_of_files, "files.created_at <=", ["created_at"]),
        (page_of_files, "files.created_at >=", ["created_at"]),
        (lambda database, _: drop_stale_files(database), "'uploading'", ["created_at", "expires"]),
        (lambda database, _: model_speed(database, MODEL), "committed_at >", ["committed_at"]),
    ],
    ids=["repeats", "batches", "files", "files the other way", "stale files", "speed"],
)
def test_time_is_looked_for_in_an_index(
    database: Database,
    ask: Callable[[Database, NewBatch], object],
    mark: str,
    found_by: list[str],
) -> None:
    file = upload(database, b"{}")
    new = NewBatch(tenant_id=TENANT, file_id=file.id, endpoint=CHAT, body_sha256="a" * 64)
    asked = Asked(database)
    ask(database, new)
    plan = asked.plan(mark)
    looked_up = [
        line for line in plan.splitlines() if "Index Cond" in line or line.startswith("SEARCH")
    ]
    assert all(any(column in line for line in looked_up) for column in found_by), plan
