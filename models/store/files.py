"""Uploaded files: their bytes in parts, so that no file lies in memory as a whole.

How they come to be stored is in `uploads.py`. Must not know what is in them.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    exists,
    literal_column,
    or_,
    select,
    update,
)

from models.clock import db_now, moment
from models.database import Database
from models.errors import NotFoundError
from models.store.transitions import insert_new
from models.tables import file_parts, files

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PART_BYTES: Final = 1 << 20  # of every part but the last
_ABANDONED_AFTER_S: Final = 6 * 3600.0

PROCESSED: Final = "processed"
UPLOADING: Final = "uploading"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file as the API lists it; times are Unix seconds.

    `sha256` is empty where only the name was given, because its requests came some other way.
    """

    id: str
    name: str
    purpose: str
    n_bytes: int
    sha256: str
    created_at: float
    expires_at: float | None


# Spelled as in the index: a bound parameter would hide from SQLite that it can be used.
_IS_UPLOADING: Final = files.c.status == literal_column(f"'{UPLOADING}'")
_COLUMNS: Final = tuple(files.c[name] for name in StoredFile.__slots__)


def keep_output_file(
    database: Database,
    tenant_id: str,
    file_id: str,
    *,
    name: str,
    purpose: str,
    n_bytes: int,
    sha256: str,
) -> None:
    """Enter what was counted of an output file; an entry that is there stays as it is."""
    values = {
        "id": file_id,
        "tenant_id": tenant_id,
        "name": name,
        "purpose": purpose,
        "n_bytes": n_bytes,
        "sha256": sha256,
        "created_at": db_now(),
    }

    def keep(connection: Connection) -> None:
        inserting = insert_new(connection.dialect.name, files, ("id",))
        connection.execute(inserting.values(values))

    database.transact(keep, replayable=True)


def get_file(database: Database, tenant_id: str, file_id: str) -> StoredFile:
    """The file; raises NotFoundError, also for another tenant's and for one that is deleted."""
    statement = select(*_COLUMNS).where(files.c.id == file_id, _is_visible(tenant_id))
    with database.read() as connection:
        row = connection.execute(statement).mappings().first()
    if row is None:
        raise NotFoundError(f"there is no file {file_id}: list the files, or upload it again")
    return StoredFile(**row)


def known_file(database: Database, file_id: str) -> StoredFile:
    """A file, also one that is deleted or expired: for whoever may see a batch made of it."""
    with database.read() as connection:
        row = connection.execute(select(*_COLUMNS).where(files.c.id == file_id)).mappings().one()
    return StoredFile(**row)


def list_files(
    database: Database,
    tenant_id: str,
    *,
    limit: int,
    after: str | None = None,
    purpose: str | None = None,
    oldest_first: bool = False,
) -> list[StoredFile]:
    """Newest first unless told otherwise; `after` is the last id seen (NotFoundError)."""
    statement = select(*_COLUMNS).where(_is_visible(tenant_id))
    if purpose is not None:
        statement = statement.where(files.c.purpose == purpose)
    if after is not None:
        last = get_file(database, tenant_id, after)
        statement = statement.where(_comes_after(last, oldest_first=oldest_first))
    keys = (files.c.created_at, files.c.id)
    order = keys if oldest_first else tuple(key.desc() for key in keys)
    with database.read() as connection:
        rows = connection.execute(statement.order_by(*order).limit(limit)).mappings()
        return [StoredFile(**row) for row in rows]


def files_with_content(database: Database, tenant_id: str, *, limit: int) -> list[StoredFile]:
    """The newest files whose bytes are here, so that a batch can be made of them."""
    has_bytes = exists().where(file_parts.c.file_id == files.c.id, file_parts.c.number == 0)
    newest_first = (files.c.created_at.desc(), files.c.id.desc())
    statement = select(*_COLUMNS).where(_is_visible(tenant_id), has_bytes)
    with database.read() as connection:
        rows = connection.execute(statement.order_by(*newest_first).limit(limit)).mappings()
        return [StoredFile(**row) for row in rows]


def file_names(database: Database, file_ids: Collection[str]) -> dict[str, str]:
    """What these files are called, also those that are deleted."""
    statement = select(files.c.id, files.c.name).where(files.c.id.in_(file_ids))
    with database.read() as connection:
        return {row.id: row.name for row in connection.execute(statement)}


def delete_file(database: Database, tenant_id: str, file_id: str) -> None:
    """Drop the file's bytes; batches made of it keep their requests. Raises NotFoundError."""
    get_file(database, tenant_id, file_id)

    def drop(connection: Connection) -> None:
        connection.execute(delete(file_parts).where(file_parts.c.file_id == file_id))
        of_file = files.c.id == file_id
        connection.execute(update(files).where(of_file).values(deleted_at=db_now()))

    database.transact(drop, replayable=True)


def drop_stale_files(database: Database) -> None:
    """Drop the bytes of files past their time, and uploads that nobody ended."""
    broken = and_(_IS_UPLOADING, files.c.created_at < moment() - _ABANDONED_AFTER_S)
    overdue = and_(files.c.expires_at <= moment(), files.c.deleted_at.is_(None))
    stale = select(files.c.id).where(or_(broken, overdue))

    def drop(connection: Connection) -> None:
        connection.execute(delete(files).where(broken))
        ids = list(connection.execute(select(files.c.id).where(overdue)).scalars())
        connection.execute(delete(file_parts).where(file_parts.c.file_id.in_(ids)))
        connection.execute(update(files).where(files.c.id.in_(ids)).values(deleted_at=db_now()))

    # A look without the write lock: nearly always there is nothing to drop.
    with database.read() as connection:
        if connection.execute(stale.limit(1)).first() is None:
            return
    database.transact(drop, replayable=True)


def read_content(database: Database, file_id: str, *, start: int = 0, stop: int) -> Iterator[bytes]:
    """The bytes from `start` up to `stop`, a part at a time; no transaction stays open.

    Raises NotFoundError where they are not here, because the file was deleted meanwhile or its
    requests came some other way: nobody takes that for the file's end.
    """
    while start < stop:
        number, skipped = divmod(start, PART_BYTES)
        piece = _read_part(database, file_id, number)[skipped : skipped + stop - start]
        if not piece:
            raise NotFoundError(f"the bytes of file {file_id} are not here: upload it again")
        start += len(piece)
        yield piece


def open_content(database: Database, file: StoredFile) -> IO[bytes]:
    """The file's bytes as a stream that holds a part at a time; raises as `read_content` does."""
    return as_stream(read_content(database, file.id, stop=file.n_bytes))


def as_stream(pieces: Iterator[bytes]) -> IO[bytes]:
    """A file's pieces as a stream, which takes them when they are needed."""
    return io.BufferedReader(_Content(pieces), PART_BYTES)


class _Content(io.RawIOBase):
    """An iterator of pieces as a raw stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer)
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        size = min(len(target), len(self._rest))
        target[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _read_part(database: Database, file_id: str, number: int) -> bytes:
    statement = select(file_parts.c.content).where(
        file_parts.c.file_id == file_id, file_parts.c.number == number
    )
    with database.read() as connection:
        return connection.execute(statement).scalar() or b""


def _is_visible(tenant_id: str) -> ColumnElement[bool]:
    return and_(
        files.c.tenant_id == tenant_id,
        files.c.status == PROCESSED,
        files.c.deleted_at.is_(None),
        or_(files.c.expires_at.is_(None), files.c.expires_at > db_now()),
    )


def _comes_after(last: StoredFile, *, oldest_first: bool) -> ColumnElement[bool]:
    created, identity = files.c.created_at, files.c.id
    # What `and_` has first says where in the index the page begins.
    if oldest_first:
        newer = or_(created > last.created_at, identity > last.id)
        return and_(created >= last.created_at, newer)
    older = or_(created < last.created_at, identity < last.id)
    return and_(created <= last.created_at, older)
