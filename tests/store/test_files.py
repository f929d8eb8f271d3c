"""Files lie in parts, are read in any range, and belong to one tenant."""

from __future__ import annotations

import pytest

from models.database import Database
from models.errors import NotFoundError
from models.store.files import (
    PART_BYTES,
    StoredFile,
    delete_file,
    drop_stale_files,
    get_file,
    list_files,
    open_content,
    read_content,
)
from models.store.uploads import abandon_upload, begin_upload, end_upload, store_part
from models.tables import file_parts, files
from tests.store.builders import count, rows

TENANT = "default"
CONTENT = bytes(range(256)) * (PART_BYTES // 256) * 2 + b"the end"


def upload(database: Database, content: bytes = CONTENT, tenant_id: str = TENANT) -> StoredFile:
    file_id = begin_upload(database, tenant_id)
    for number, start in enumerate(range(0, len(content), PART_BYTES)):
        store_part(database, file_id, number, content[start : start + PART_BYTES])
    return end_upload(
        database,
        tenant_id,
        file_id,
        name="in.jsonl",
        purpose="batch",
        n_bytes=len(content),
        n_lines=len(content.splitlines()),
        sha256="0" * 64,
    )


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, len(CONTENT)),
        (0, 0),
        (5, 6),
        (PART_BYTES - 1, PART_BYTES + 1),
        (PART_BYTES, 2 * PART_BYTES),
        (2 * PART_BYTES, len(CONTENT)),
        (len(CONTENT), len(CONTENT)),
    ],
)
def test_any_range_is_read(database: Database, start: int, stop: int) -> None:
    file = upload(database)
    read = b"".join(read_content(database, file.id, start=start, stop=stop))
    assert read == CONTENT[start:stop]


def test_a_file_is_a_stream_of_lines(database: Database) -> None:
    lines = [b"%d " % number * 1000 + b"\n" for number in range(700)]
    file = upload(database, b"".join(lines))
    with open_content(database, file) as stream:
        assert list(stream) == lines


def test_a_file_that_is_deleted_while_it_is_read_does_not_just_end(database: Database) -> None:
    file = upload(database)
    with open_content(database, file) as stream:
        stream.read(10)
        delete_file(database, TENANT, file.id)
        with pytest.raises(NotFoundError, match="are not here"):
            stream.read()


def test_an_upload_that_did_not_end_is_no_file(database: Database) -> None:
    file_id = begin_upload(database, TENANT)
    store_part(database, file_id, 0, b"half")
    with pytest.raises(NotFoundError):
        get_file(database, TENANT, file_id)
    assert list_files(database, TENANT, limit=10) == []
    abandon_upload(database, file_id)
    assert (count(database, files), count(database, file_parts)) == (0, 0)


def test_an_upload_nobody_ended_is_dropped_after_hours(database: Database) -> None:
    file_id = begin_upload(database, TENANT)
    drop_stale_files(database)
    assert count(database, files) == 1
    with database.begin() as connection:
        connection.execute(files.update().where(files.c.id == file_id).values(created_at=0.0))
    drop_stale_files(database)
    assert count(database, files) == 0


def test_a_deleted_file_is_gone_with_its_bytes(database: Database) -> None:
    kept, dropped = upload(database, b"1"), upload(database, b"2")
    delete_file(database, TENANT, dropped.id)
    for look in (get_file, delete_file):
        with pytest.raises(NotFoundError):
            look(database, TENANT, dropped.id)
    assert [file.id for file in list_files(database, TENANT, limit=10)] == [kept.id]
    assert [row["file_id"] for row in rows(database, file_parts)] == [kept.id]


def test_a_file_past_its_time_is_gone(database: Database) -> None:
    file = upload(database, b"1")
    with database.begin() as connection:
        connection.execute(files.update().values(expires_at=1.0))
    with pytest.raises(NotFoundError):
        get_file(database, TENANT, file.id)
    drop_stale_files(database)
    assert count(database, file_parts) == 0


def test_nobody_sees_another_tenants_file(database: Database) -> None:
    file = upload(database, b"1", tenant_id="other")
    for look in (get_file, delete_file):
        with pytest.raises(NotFoundError):
            look(database, TENANT, file.id)
    assert list_files(database, TENANT, limit=10) == []


@pytest.mark.parametrize("oldest_first", [False, True])
def test_every_page_goes_on_after_the_last(database: Database, oldest_first: bool) -> None:
    made = [upload(database, b"%d" % number).id for number in range(5)]
    seen: list[str] = []
    while page := list_files(
        database,
        TENANT,
        limit=2,
        after=seen[-1] if seen else None,
        oldest_first=oldest_first,
    ):
        seen += [file.id for file in page]
    assert seen == (made if oldest_first else made[::-1])
