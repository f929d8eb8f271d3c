"""A batch of an uploaded file: stored at once, its lines validated afterwards.

Must not know file formats; `validation.py` does what comes next.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, insert, select, text, update

from models.clock import db_now
from models.database import Database
from models.errors import IdempotencyConflict
from models.store.batches import get_batch
from models.store.submit import batch_values, new_id
from models.store.views import Submitted
from models.tables import batches

REPEATED_WITHIN_S: Final = 600.0  # as long as the official client waits for an answer
_ORIGINAL_WITHIN_S: Final = 60.0  # a first attempt that its own repeat overtook


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """What a client asks for; `body_sha256` is of everything it gave.

    `is_repeat`: the client says that it has sent this before and got no answer.
    """

    tenant_id: str
    file_id: str
    endpoint: str
    body_sha256: str
    completion_window_s: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    idempotency_key: str | None = None
    is_repeat: bool = False


def create_batch(database: Database, new: NewBatch) -> Submitted:
    """Store the batch as `validating`, or find the one that the same call made before.

    Without an idempotency key a repeat finds the batch of its first attempt, also when both
    arrive at once or in the wrong order. Raises IdempotencyConflict for a known key with another
    body.
    """
    batch_id = new_id("batch_")
    row = batch_values(
        batch_id=batch_id,
        tenant_id=new.tenant_id,
        file_id=new.file_id,
        idempotency_key=new.idempotency_key,
        body_sha256=new.body_sha256,
        endpoint=new.endpoint,
        priority=new.priority,
        completion_window_s=new.completion_window_s,
        metadata=new.metadata,
    )

    def create(connection: Connection) -> str:
        _one_of_a_kind(connection, new.idempotency_key or new.body_sha256)
        if (known := _find_known(connection, new)) is not None:
            return known
        repeat_until = db_now() + _ORIGINAL_WITHIN_S if new.is_repeat else None
        connection.execute(insert(batches).values({**row, "repeat_until": repeat_until}))
        return batch_id

    found = database.transact(create, replayable=True)
    return Submitted(get_batch(database, found, new.tenant_id), created=found == batch_id)


def _one_of_a_kind(connection: Connection, key: str) -> None:
    """Calls alike go one after the other; on SQLite writers are single anyway."""
    if connection.dialect.name == "postgresql":
        lock = text("SELECT pg_advisory_xact_lock(hashtext('nightshift create'), hashtext(:key))")
        connection.execute(lock, {"key": key})


def _find_known(connection: Connection, new: NewBatch) -> str | None:
    if new.idempotency_key is not None:
        return _find_by_key(connection, new, new.idempotency_key)
    alike = (
        select(batches.c.id, batches.c.repeat_until)
        .where(batches.c.tenant_id == new.tenant_id, batches.c.body_sha256 == new.body_sha256)
        .where(batches.c.idempotency_key.is_(None))
        .where(batches.c.created_at > db_now() - REPEATED_WITHIN_S)
        .order_by(batches.c.created_at.desc(), batches.c.id.desc())
        .limit(1)
    )
    if not new.is_repeat:
        alike = alike.where(batches.c.repeat_until > db_now())
    found = connection.execute(alike).first()
    if found is None:
        return None
    if not new.is_repeat:  # the first attempt has come after all: what follows is a batch anew
        of_batch = batches.c.id == found.id
        connection.execute(update(batches).where(of_batch).values(repeat_until=None))
    return str(found.id)


def _find_by_key(connection: Connection, new: NewBatch, key: str) -> str | None:
    statement = select(batches.c.id, batches.c.body_sha256).where(
        batches.c.tenant_id == new.tenant_id, batches.c.idempotency_key == key
    )
    found = connection.execute(statement).first()
    if found is None:
        return None
    if found.body_sha256 != new.body_sha256:
        raise IdempotencyConflict(
            f"the idempotency key {key!r} was used for batch {found.id} with other content: "
            "choose a new key"
        )
    return str(found.id)
