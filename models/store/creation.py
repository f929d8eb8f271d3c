"""A batch of an uploaded file: stored at once, its lines validated afterwards.

Must not know file formats; `validation.py` does what comes next.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from models.database import Database
from models.errors import NotFoundError
from models.store.batches import get_batch
from models.store.keys import UNLIMITED, KeyLimits
from models.store.queue_room import check_room
from models.store.repeats import Call, call_values, find_known
from models.store.submit import batch_values, new_id
from models.store.transitions import insert_new
from models.store.views import Submitted
from models.tables import batches, files


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch(Call):
    """What a client asks for."""

    file_id: str
    endpoint: str
    completion_window_s: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    limits: KeyLimits = UNLIMITED


def create_batch(database: Database, new: NewBatch) -> Submitted:
    """Store the batch as `validating`, or find the one that the same call made before.

    Raises NotFoundError for another tenant's file, IdempotencyConflict for a known key with another
    body, and QueueFull when the limits leave no room for the file's requests.
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
    file_of_tenant = select(files.c.id).where(
        files.c.id == new.file_id, files.c.tenant_id == new.tenant_id
    )

    def create(connection: Connection) -> str:
        if (known := find_known(connection, new)) is not None:
            return known
        if connection.execute(file_of_tenant).first() is None:
            raise NotFoundError(f"there is no file {new.file_id}: upload it first")
        # Done again when nobody knows whether it was committed: then the row is there.
        inserting = insert_new(connection.dialect.name, batches, ("id",))
        connection.execute(inserting.values({**row, **call_values(new)}))
        check_room(connection, new.tenant_id, new.limits)
        return batch_id

    found = database.transact(create, replayable=True)
    return Submitted(get_batch(database, found, new.tenant_id), created=found == batch_id)
