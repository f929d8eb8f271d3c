"""The audit counts rows, so it sees what counters would hide."""

from __future__ import annotations

from sqlalchemy import delete

from models.database import Database
from models.store.audit import audit_batch
from models.store.batches import cancel_batch, finalize_batch
from models.store.submit import submit_batch
from models.tables import results
from tests.store.builders import accepted, claim, finish, refused, submission, submit, work_off


def test_a_batch_that_ended_is_whole(database: Database) -> None:
    submit(database, 5)  # another batch's rows do not count
    batch = submit_batch(database, submission(), [accepted(0), refused(1), accepted(2)]).batch
    work_off(database)
    finalize_batch(database, batch.id)
    audit = audit_batch(database, batch.id)
    assert (audit.requests, audit.answered, audit.failed) == (3, 2, 1)
    assert (audit.missing, audit.unknown, audit.repeated_ids) == (0, 0, 0)
    assert audit.is_whole


def test_what_never_ran_has_failed(database: Database) -> None:
    batch = submit(database, 16)
    finish(database, claim(database))
    cancel_batch(database, batch.id)
    audit = audit_batch(database, batch.id)
    assert (audit.answered, audit.failed, audit.is_whole) == (8, 8, True)


def test_a_lost_result_is_seen(database: Database) -> None:
    batch = submit(database, 8)
    work_off(database)
    with database.begin() as connection:
        connection.execute(delete(results).where(results.c.idx == 3))
    audit = audit_batch(database, batch.id)
    assert (audit.answered, audit.missing, audit.is_whole) == (7, 1, False)
