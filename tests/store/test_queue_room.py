"""What a tenant may have waiting and stored is bounded, also when many ask at once."""

from __future__ import annotations

import pytest

from models.database import Database
from models.errors import QueueFull
from models.states import BatchState
from models.store.batches import cancel_batch, get_batch
from models.store.creation import NewBatch, create_batch
from models.store.files import delete_file, list_files
from models.store.keys import UNLIMITED, KeyLimits
from models.store.retry import retry_batch
from models.store.uploads import begin_upload, store_part
from models.store.views import Batch
from models.tables import batches, file_parts
from tests.store.builders import CHAT, at_once, claim, count, finish, submit
from tests.store.test_files import TENANT, upload

TEN_REQUESTS = KeyLimits(max_queued_requests=10)
LINES_OF_4 = b"{}\n" * 4


def create(database: Database, content: bytes, limits: KeyLimits, *, name: str = "") -> Batch:
    file = upload(database, content)
    return create_batch(
        database,
        NewBatch(
            tenant_id=TENANT,
            file_id=file.id,
            endpoint=CHAT,
            body_sha256=file.id,
            idempotency_key=name or None,
            limits=limits,
        ),
    ).batch


def test_lines_that_are_not_read_yet_count_until_the_batch_ends(database: Database) -> None:
    first = create(database, LINES_OF_4, TEN_REQUESTS)
    create(database, LINES_OF_4, TEN_REQUESTS)
    with pytest.raises(QueueFull, match=r"^12 requests .* 10:"):
        create(database, LINES_OF_4, TEN_REQUESTS)
    assert count(database, batches) == 2
    assert create(database, b"{}\n" * 2, TEN_REQUESTS).state is BatchState.VALIDATING
    cancel_batch(database, first.id)
    assert create(database, LINES_OF_4, TEN_REQUESTS).state is BatchState.VALIDATING


def test_of_a_running_batch_what_is_not_answered_counts(database: Database) -> None:
    submit(database, 16)
    with pytest.raises(QueueFull):
        create(database, b"{}\n", KeyLimits(max_queued_requests=16))
    finish(database, claim(database))
    create(database, b"{}\n" * 8, KeyLimits(max_queued_requests=16))


def test_other_tenants_do_not_count(database: Database) -> None:
    submit(database, 16, tenant_id="other")
    upload(database, b"x" * 100, "other")
    create(database, LINES_OF_4, KeyLimits(max_queued_requests=4, max_queued_bytes=12))


def test_a_repeat_finds_its_batch_although_the_queue_is_full(database: Database) -> None:
    batch = create(database, b"{}\n" * 10, TEN_REQUESTS, name="k")
    new = NewBatch(
        tenant_id=TENANT,
        file_id=batch.file_id,
        endpoint=CHAT,
        body_sha256=batch.file_id,
        idempotency_key="k",
        limits=TEN_REQUESTS,
    )
    assert create_batch(database, new).batch.id == batch.id


def test_batches_at_once_do_not_overfill_the_queue(database: Database) -> None:
    def create_or_not() -> bool:
        try:
            create(database, LINES_OF_4, TEN_REQUESTS)
        except QueueFull:
            return False
        return True

    assert sorted(at_once([create_or_not] * 5)) == [False] * 3 + [True] * 2


def test_a_retry_needs_room_too(database: Database) -> None:
    batch = submit(database, 8)
    cancel_batch(database, batch.id)
    assert get_batch(database, batch.id).state is BatchState.CANCELLED
    with pytest.raises(QueueFull):
        retry_batch(database, batch.id, limits=KeyLimits(max_queued_requests=7))
    assert count(database, batches) == 1
    retry_batch(database, batch.id, limits=KeyLimits(max_queued_requests=8))


def test_uploads_are_bounded_while_they_arrive(database: Database) -> None:
    limits = KeyLimits(max_queued_bytes=100)
    kept = upload(database, b"x" * 60)
    file_id = begin_upload(database, TENANT)
    store_part(database, file_id, 0, b"x" * 40, limits=limits)
    with pytest.raises(QueueFull, match=r"^101 bytes .* 100:"):
        store_part(database, file_id, 1, b"x", limits=limits)
    assert count(database, file_parts) == 2
    delete_file(database, TENANT, kept.id)
    store_part(database, file_id, 1, b"x" * 60, limits=limits)
    assert [file.id for file in list_files(database, TENANT, limit=9)] == []


def test_a_deleted_file_counts_as_long_as_its_batch_is_open(database: Database) -> None:
    limits = KeyLimits(max_queued_bytes=12)
    batch = create(database, LINES_OF_4, UNLIMITED)
    delete_file(database, TENANT, batch.file_id)
    with pytest.raises(QueueFull):
        create(database, b"\n", limits)
    cancel_batch(database, batch.id)
    create(database, b"\n", limits)
