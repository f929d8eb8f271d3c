"""Validation of a file that is not what it was when its batch was made."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from api import validator
from api.validator import Validator
from models.database import Database
from models.errors import NotFoundError
from models.settings import load_settings
from models.states import BatchState
from models.store.batches import get_batch
from models.store.creation import NewBatch, create_batch
from models.store.failures import failures_by_reason
from models.store.files import PART_BYTES, StoredFile, delete_file, read_content
from models.store.validation import store_lines
from models.store.views import Batch, ServedModel
from models.store.workers import register_model
from models.tables import batches
from models.wire.json_lines import json_line
from tests.store.builders import CHAT, MODEL, rows
from tests.store.test_files import TENANT, upload


@pytest.fixture(autouse=True)
def _model(database: Database) -> None:
    served = ServedModel(key=MODEL, artifact="x", architecture="llama", context_tokens=64)
    register_model(database, served)


def line(number: int, content: str = "?", **body: object) -> bytes:
    messages = [{"role": "user", "content": content}]
    whole = {"model": "demo", "messages": messages, **body}
    request = {"custom_id": f"r{number}", "method": "POST", "url": CHAT, "body": whole}
    return f"{json_line(request)}\n".encode()


def make(database: Database, content: bytes) -> tuple[StoredFile, Batch]:
    """A batch that waits for its validation."""
    file = upload(database, content)
    new = NewBatch(tenant_id=TENANT, file_id=file.id, endpoint=CHAT, body_sha256="a" * 64)
    return file, create_batch(database, new).batch


def validated(database: Database, batch: Batch) -> Batch:
    assert Validator(database, load_settings({})).validate_all() == 1
    return get_batch(database, batch.id)


def codes(batch: Batch) -> list[str]:
    return [error.code for error in batch.errors]


def test_a_file_that_is_deleted_while_it_is_read_loses_no_lines_silently(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, batch = make(database, b"".join(line(n, "x" * 5000) for n in range(1000)))
    assert file.n_bytes > 4 * PART_BYTES

    def store_then_delete(*arguments: Any) -> None:
        store_lines(*arguments)
        with suppress(NotFoundError):  # once is enough
            delete_file(database, TENANT, file.id)

    monkeypatch.setattr(validator, "store_lines", store_then_delete)
    failed = validated(database, batch)
    assert (failed.state, failed.total) == (BatchState.FAILED, 0)
    assert codes(failed) == ["file_not_found"]


def test_a_file_that_is_deleted_before_it_is_read_is_told_from_an_unknown_model(
    database: Database,
) -> None:
    file, batch = make(database, line(0))
    delete_file(database, TENANT, file.id)
    assert codes(validated(database, batch)) == ["file_not_found"]
    _, batch = make(database, line(0, model="other"))
    assert codes(validated(database, batch)) == ["model_not_found"]


def test_a_file_that_takes_long_stays_with_its_validator(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two processes would take a file of blank lines from each other without end."""
    _, batch = make(database, b"\n" * 2 * PART_BYTES + line(0))
    held_until: list[float] = []

    def noting(*arguments: Any, **options: Any) -> Iterator[bytes]:
        for piece in read_content(*arguments, **options):
            held_until.append(rows(database, batches)[0]["validator_until"])
            yield piece

    monkeypatch.setattr(validator, "read_content", noting)
    settings = load_settings({}, lease_ttl_s=0.03, renew_period_s=0.01)
    assert Validator(database, settings).validate_all() == 1
    assert get_batch(database, batch.id).state is BatchState.IN_PROGRESS
    assert len(held_until) == 3
    assert held_until[-1] > held_until[0]


@pytest.mark.parametrize("name", ["m" * 500_000, "m:" * 250_000])
def test_an_endless_name_of_a_model_is_not_kept(database: Database, name: str) -> None:
    _, batch = make(database, line(0, model=name))
    (error,) = validated(database, batch).errors
    assert error.code == "model_not_found"
    assert len(error.message) < 400


@pytest.mark.parametrize(
    ("custom_id", "code"),
    [
        ("r0", secrets.token_hex(3000)),
        ("r0", "No code"),
        (secrets.token_hex(3000), "invalid_value"),
    ],
    ids=["long code", "odd code", "long custom_id"],
)
def test_a_refusal_that_somebody_made_up_is_a_bad_line_like_any_other(
    database: Database, custom_id: str, code: str
) -> None:
    reason = {"code": code, "message": "?", "param": None}
    made_up = {"custom_id": custom_id, "model": "demo", "refused": reason}
    _, batch = make(database, f"{json_line(made_up)}\n".encode() + line(1))
    running = validated(database, batch)
    assert (running.state, running.total, running.failed) == (BatchState.IN_PROGRESS, 2, 1)
    (group,) = failures_by_reason(database, batch.id)
    assert group.code in {"missing_required_parameter", "invalid_value"}
    assert len(group.message) < 300
