"""Storing a file part by part, or at once where its bytes are in memory anyway.

A file is `uploading` until its last part is there; only then can a batch name it. Must not know
what is in it.
"""

from __future__ import annotations

import hashlib

from sqlalchemy import Connection, and_, delete, insert, update

from models.clock import db_now
from models.database import Database
from models.store.files import PART_BYTES, PROCESSED, UPLOADING, StoredFile, get_file
from models.store.keys import UNLIMITED, KeyLimits
from models.store.queue_room import check_stored_bytes
from models.store.submit import new_id
from models.tables import file_parts, files


def store_content(
    database: Database, tenant_id: str, content: bytes, *, name: str, purpose: str, n_lines: int
) -> StoredFile:
    """Store a whole file; one that breaks off leaves nothing."""
    file_id = begin_upload(database, tenant_id)
    try:
        for number, start in enumerate(range(0, len(content), PART_BYTES)):
            store_part(database, file_id, number, content[start : start + PART_BYTES])
        return end_upload(
            database,
            tenant_id,
            file_id,
            name=name,
            purpose=purpose,
            n_bytes=len(content),
            n_lines=n_lines,
            sha256=hashlib.sha256(content).hexdigest(),
        )
    except BaseException:
        abandon_upload(database, file_id)
        raise


def begin_upload(database: Database, tenant_id: str) -> str:
    """Enter a file that has no bytes yet; returns its id."""
    file_id = new_id("file-")
    values = {
        "id": file_id,
        "tenant_id": tenant_id,
        "name": "",
        "purpose": "",
        "n_bytes": 0,
        "sha256": "",
        "status": UPLOADING,
        "created_at": db_now(),
    }
    database.transact(lambda connection: connection.execute(insert(files).values(values)))
    return file_id


def store_part(
    database: Database,
    file_id: str,
    number: int,
    content: bytes,
    *,
    limits: KeyLimits = UNLIMITED,
) -> None:
    """Add the next part, of PART_BYTES unless it is the last.

    Raises QueueFull, and stores nothing, when the tenant would have more than the limits allow.
    """
    values = {"file_id": file_id, "number": number, "content": content}
    n_bytes = files.c.n_bytes + len(content)
    counting = update(files).where(files.c.id == file_id).values(n_bytes=n_bytes)

    def store(connection: Connection) -> None:
        connection.execute(insert(file_parts).values(values))
        tenant_id = connection.execute(counting.returning(files.c.tenant_id)).scalar_one()
        check_stored_bytes(connection, tenant_id, limits)

    database.transact(store)


def end_upload(
    database: Database,
    tenant_id: str,
    file_id: str,
    *,
    name: str,
    purpose: str,
    n_bytes: int,
    n_lines: int,
    sha256: str,
    expires_after_s: float | None = None,
) -> StoredFile:
    """All parts are there: the file can be used. Raises NotFoundError for another tenant's."""
    values = {
        "name": name,
        "purpose": purpose,
        "n_bytes": n_bytes,
        "n_lines": n_lines,
        "sha256": sha256,
        "status": PROCESSED,
        "expires_at": None if expires_after_s is None else db_now() + expires_after_s,
    }
    of_file = and_(files.c.id == file_id, files.c.tenant_id == tenant_id)
    statement = update(files).where(of_file).values(values)
    database.transact(lambda connection: connection.execute(statement), replayable=True)
    return get_file(database, tenant_id, file_id)


def abandon_upload(database: Database, file_id: str) -> None:
    """Remove a file whose upload broke off."""
    statement = delete(files).where(files.c.id == file_id, files.c.status == UPLOADING)
    database.transact(lambda connection: connection.execute(statement), replayable=True)
