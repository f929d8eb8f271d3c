"""A young batch is big and PostgreSQL has statistics of small ones only: no query is quadratic.

Joining 6,000 rows with each other row by row takes most of a minute, the statements here some
hundredths of a second; the server's own statement timeout of 10 s tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from models.database import Database, connect_database
from models.states import BatchState
from models.store.batches import cancel_batch, finalize_batch
from models.store.results import batch_figures, stream_records
from models.store.retry import retry_batch
from tests.store.builders import claim, finish, submit, work_off

N_REQUESTS = 6000


@pytest.fixture
def hurried_database(postgres_database: Database, postgres_url: str) -> Iterator[Database]:
    """PostgreSQL that knows a small batch, and gives up on slow statements."""
    submit(postgres_database, 50)
    work_off(postgres_database)
    with postgres_database.begin() as connection:
        connection.execute(text("ANALYZE"))
    url = f"{postgres_url}?options=-c%20statement_timeout%3D10s"
    with connect_database(url) as database:
        yield database


def test_a_big_young_batch_is_planned_read_and_closed_quickly(hurried_database: Database) -> None:
    database = hurried_database
    batch = submit(database, N_REQUESTS, chunk_requests=500)
    for _ in range(10):
        assert finish(database, claim(database)).chunk_done
    assert len(list(stream_records(database, batch.id))) == 5000
    assert batch_figures(database, batch.id).generated == 5000
    assert cancel_batch(database, batch.id).state is BatchState.CANCELLED
    retried = retry_batch(database, batch.id)
    assert retried.total == 1000
    assert work_off(database) == 16
    assert finalize_batch(database, retried.id).state is BatchState.COMPLETED
