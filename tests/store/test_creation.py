"""The same call makes one batch, however often and in whichever order it arrives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.database import Database
from models.errors import IdempotencyConflict
from models.states import BatchState
from models.store.batches import cancel_batch
from models.store.creation import NewBatch, create_batch
from models.store.retry import retry_batch
from models.store.views import Batch
from models.tables import batches
from tests.store.builders import CHAT, at_once, count, lose_a_reply, rows, submit
from tests.store.test_files import TENANT, upload


@pytest.fixture
def new(database: Database) -> NewBatch:
    file = upload(database, b"{}")
    return NewBatch(tenant_id=TENANT, file_id=file.id, endpoint=CHAT, body_sha256="a" * 64)


def test_a_batch_is_validating_until_its_lines_are_checked(
    database: Database, new: NewBatch
) -> None:
    submitted = create_batch(database, replace(new, completion_window_s=60.0, priority=3))
    batch = submitted.batch
    assert submitted.created
    assert (batch.state, batch.model, batch.total) == (BatchState.VALIDATING, None, 0)
    assert batch.priority == 3
    assert batch.expires_at == pytest.approx(batch.created_at + 60, abs=1)


def test_two_first_calls_make_two_batches(database: Database, new: NewBatch) -> None:
    assert create_batch(database, new).batch.id != create_batch(database, new).batch.id


def test_a_repeat_finds_the_batch_of_its_first_attempt(database: Database, new: NewBatch) -> None:
    first = create_batch(database, new)
    repeat = create_batch(database, replace(new, is_repeat=True))
    assert (repeat.batch.id, repeat.created) == (first.batch.id, False)


def test_a_first_attempt_that_its_repeat_overtook_finds_its_batch(
    database: Database, new: NewBatch
) -> None:
    repeat = create_batch(database, replace(new, is_repeat=True))
    late = create_batch(database, new)
    assert (late.batch.id, late.created) == (repeat.batch.id, False)
    assert create_batch(database, new).created  # and the next one is meant


def test_a_first_attempt_and_its_repeats_at_once_make_one_batch(
    database: Database, new: NewBatch
) -> None:
    calls = [new, *[replace(new, is_repeat=True)] * 3]
    made = at_once([lambda call=call: create_batch(database, call) for call in calls])  # type: ignore[misc]
    assert len({submitted.batch.id for submitted in made}) == 1
    assert count(database, batches) == 1


def test_a_batch_whose_commit_got_no_reply_is_there_once(postgres_database: Database) -> None:
    file = upload(postgres_database, b"{}")
    new = NewBatch(tenant_id=TENANT, file_id=file.id, endpoint=CHAT, body_sha256="a" * 64)
    broken = lose_a_reply(postgres_database)
    made = create_batch(postgres_database, new)
    assert (len(broken), made.created) == (1, True)
    assert [row["id"] for row in rows(postgres_database, batches)] == [made.batch.id]


def test_a_repeat_of_another_body_is_another_batch(database: Database, new: NewBatch) -> None:
    create_batch(database, new)
    assert create_batch(database, replace(new, body_sha256="b" * 64, is_repeat=True)).created


def test_a_repeat_of_another_tenants_call_is_a_batch_of_its_own(
    database: Database, new: NewBatch
) -> None:
    create_batch(database, new)
    file = upload(database, b"{}", "other")
    theirs = replace(new, tenant_id="other", file_id=file.id, is_repeat=True)
    assert create_batch(database, theirs).created


def test_an_idempotency_key_names_one_batch(database: Database, new: NewBatch) -> None:
    keyed = replace(new, idempotency_key="k")
    made = at_once([lambda: create_batch(database, keyed)] * 4)
    assert len({submitted.batch.id for submitted in made}) == 1
    assert sum(submitted.created for submitted in made) == 1
    with pytest.raises(IdempotencyConflict):
        create_batch(database, replace(keyed, body_sha256="b" * 64))


@pytest.fixture
def ended(database: Database) -> Batch:
    """A batch of which everything can be retried."""
    return cancel_batch(database, submit(database, 8).id)


def test_a_repeated_retry_makes_one_batch(database: Database, ended: Batch) -> None:
    def retry(*, is_repeat: bool) -> Batch:
        return retry_batch(database, ended.id, is_repeat=is_repeat)

    repeats = [lambda: retry(is_repeat=True)] * 2
    made = at_once([lambda: retry(is_repeat=False), *repeats])
    assert len({batch.id for batch in made}) == 1
    assert count(database, batches) == 2


def test_two_retries_that_are_meant_make_two_batches(database: Database, ended: Batch) -> None:
    first, second = (retry_batch(database, ended.id) for _ in range(2))
    assert first.id != second.id
    assert (first.total, second.total) == (8, 8)


def test_retries_for_other_reasons_are_other_calls(database: Database, ended: Batch) -> None:
    everything = retry_batch(database, ended.id)
    codes = ["batch_cancelled", "worker_lost"]
    some = retry_batch(database, ended.id, error_codes=codes, is_repeat=True)
    again = retry_batch(database, ended.id, error_codes=codes[::-1], is_repeat=True)
    assert everything.id != some.id == again.id


def test_an_idempotency_key_names_one_retry(database: Database, ended: Batch) -> None:
    first, second = (retry_batch(database, ended.id, idempotency_key="k") for _ in range(2))
    assert first.id == second.id
    with pytest.raises(IdempotencyConflict):
        retry_batch(database, ended.id, error_codes=["batch_cancelled"], idempotency_key="k")


def test_a_retry_is_not_the_call_that_made_its_batch(database: Database, new: NewBatch) -> None:
    first = cancel_batch(database, submit(database, 8, body_sha256=new.body_sha256).id)
    retry_batch(database, first.id)
    assert create_batch(database, replace(new, is_repeat=True)).batch.id == first.id
