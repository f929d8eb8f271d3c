"""Validating a batch of an uploaded file: its lines become rows, some hundreds a transaction.

Small transactions, so that nobody waits for a large file. Whoever validates holds the batch for a
time; when that process dies, the next one reads the file again and goes on after the rows that
are there. Must not know file formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select, update

from models.clock import db_now
from models.database import Database
from models.errors import LeaseLost
from models.model_key import ModelKey
from models.states import BatchState
from models.store.batch_ends import end_batch
from models.store.batches import finalize_batch
from models.store.commit_log import log_commit
from models.store.endings import EXPIRED
from models.store.forecast import model_capacity
from models.store.lines import Tally, insert_lines
from models.store.plan import plan_chunks
from models.store.submit import end_validation
from models.store.views import BatchError
from models.tables import batches, commits, requests
from models.wire.lines import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The right to validate a batch; `n_stored` lines of it are rows already."""

    batch_id: str
    tenant_id: str
    file_id: str
    endpoint: str
    validator_id: str
    ttl_s: float
    n_stored: int


def claim_validation(database: Database, validator_id: str, *, ttl_s: float) -> Validation | None:
    """Take the oldest batch that waits for its validation and that nobody holds."""
    waiting = (
        select(
            batches.c.id.label("batch_id"),
            batches.c.tenant_id,
            batches.c.file_id,
            batches.c.endpoint,
            batches.c.n_total.label("n_stored"),
        )
        .where(batches.c.state == str(BatchState.VALIDATING), _is_free())
        .order_by(batches.c.created_at)
        .limit(1)
    )

    def claim(connection: Connection) -> Validation | None:
        row = connection.execute(waiting.with_for_update(skip_locked=True)).mappings().first()
        if row is None:
            return None
        until = {"validator_id": validator_id, "validator_until": db_now() + ttl_s}
        of_batch = batches.c.id == row["batch_id"]
        connection.execute(update(batches).where(of_batch).values(until))
        return Validation(**row, validator_id=validator_id, ttl_s=ttl_s)

    # A look without the write lock: nearly always nothing waits.
    with database.read() as connection:
        if connection.execute(waiting).first() is None:
            return None
    return database.transact(claim)


def prolong_validation(database: Database, validation: Validation) -> None:
    """Keep the batch for another `ttl_s`; raises LeaseLost."""
    database.transact(lambda connection: _hold(connection, validation), replayable=True)


def set_model(database: Database, validation: Validation, model: ModelKey) -> None:
    """Note which model the first line names; raises LeaseLost."""

    def note(connection: Connection) -> None:
        _hold(connection, validation)
        values = {"model_name": model.name, "weights": str(model.weights)}
        connection.execute(update(batches).where(_is(validation)).values(values))

    database.transact(note, replayable=True)


def store_lines(
    database: Database, validation: Validation, first: int, lines: Sequence[Line]
) -> None:
    """Store the lines from number `first` on; raises LeaseLost and stores nothing then."""

    def store(connection: Connection) -> None:
        _hold(connection, validation)
        tally = Tally()
        for line in lines:
            tally.count(line)
        insert_lines(connection, validation.batch_id, first, list(lines))
        refused = [first + idx for idx in tally.refused]
        counts = {
            "n_total": batches.c.n_total + tally.total,
            "n_failed": batches.c.n_failed + len(refused),
        }
        connection.execute(update(batches).where(_is(validation)).values(counts))
        log_commit(connection, validation.batch_id, refused)

    database.transact(store)


def finish_validation(
    database: Database,
    validation: Validation,
    tally: Tally,
    *,
    model: ModelKey,
    chunk_requests: int,
) -> None:
    """All lines are stored: plan them, and let the batch run. Raises LeaseLost."""
    capacity = model_capacity(database, model)

    def finish(connection: Connection) -> None:
        _hold(connection, validation)
        batch_id = validation.batch_id
        plan_chunks(
            connection,
            batch_id,
            n_requests=tally.accepted,
            limit=chunk_requests,
            capacity=capacity,
        )
        end_validation(connection, batch_id, tally)

    database.transact(finish)
    if tally.accepted == 0:
        finalize_batch(database, validation.batch_id)  # there is nothing to run


def fail_validation(
    database: Database, validation: Validation, errors: Sequence[BatchError]
) -> None:
    """The file as a whole cannot be used: the batch has failed. Raises LeaseLost."""

    def fail(connection: Connection) -> None:
        _hold(connection, validation)
        _fail(connection, validation.batch_id, errors)

    database.transact(fail, replayable=True)


def fail_overdue_validations(database: Database) -> list[str]:
    """End the batches whose time is over and whose file nobody reads; returns their ids.

    One whose file is being read goes on: it expires with an error for each of its requests.
    """
    overdue = (
        select(batches.c.id)
        .where(batches.c.state == str(BatchState.VALIDATING), batches.c.expires_at <= db_now())
        .where(_is_free())
        .order_by(batches.c.id)
    )
    error = BatchError(code=EXPIRED.code, message="the batch expired before its file was read")

    def fail(connection: Connection) -> list[str]:
        ids = list(connection.execute(overdue.with_for_update(skip_locked=True)).scalars())
        for batch_id in ids:
            _fail(connection, batch_id, [error])
        return ids

    # A look without the write lock: nearly always there is none.
    with database.read() as connection:
        if connection.execute(overdue.limit(1)).first() is None:
            return []
    return database.transact(fail)


def _fail(connection: Connection, batch_id: str, errors: Sequence[BatchError]) -> None:
    """What was read of the file goes; the errors stay."""
    for table in (commits, requests):
        connection.execute(delete(table).where(table.c.batch_id == batch_id))
    values = {"errors": [asdict(error) for error in errors], "n_total": 0, "n_failed": 0}
    end_batch(connection, batch_id, BatchState.FAILED, **values)


def _is_free() -> ColumnElement[bool]:
    """Whether nobody validates the batch of the enclosing query."""
    return or_(batches.c.validator_until.is_(None), batches.c.validator_until < db_now())


def _hold(connection: Connection, validation: Validation) -> None:
    """The fence: prolong the right to validate, or raise LeaseLost."""
    held = and_(
        _is(validation),
        batches.c.state == str(BatchState.VALIDATING),
        batches.c.validator_id == validation.validator_id,
    )
    prolonging = update(batches).where(held).values(validator_until=db_now() + validation.ttl_s)
    if connection.execute(prolonging).rowcount != 1:
        raise LeaseLost(
            f"batch {validation.batch_id} was cancelled, or another process validates it: nothing "
            "was written"
        )


def _is(validation: Validation) -> ColumnElement[bool]:
    return batches.c.id == validation.batch_id
