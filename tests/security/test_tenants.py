"""What a tenant has is not there for another: every function of the store that takes a tenant.

The same over HTTP, for every route, is in `tests/api/test_access.py`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import pytest

import models.store
from models.database import Database
from models.errors import NotFoundError, QueueFull
from models.store.batches import cancel_batch, finalize_batch, find_batch, get_batch, list_batches
from models.store.creation import NewBatch, create_batch
from models.store.files import (
    delete_file,
    files_with_content,
    get_file,
    keep_output_file,
    list_files,
)
from models.store.keys import KeyLimits
from models.store.pauses import pause_batch, resume_batch
from models.store.queue_room import (
    check_queued_requests,
    check_room,
    check_stored_bytes,
    room_bytes,
)
from models.store.repeats import Call, find_by_key, find_known
from models.store.retry import retry_batch
from models.store.uploads import begin_upload, end_upload, store_content, store_part
from models.store.views import Worker
from models.store.webhooks import add_webhook, get_webhook, list_webhooks, remove_webhook
from models.store.worker_figures import worker_figures
from models.store.workers import register_worker
from models.webhooks import WebhookEvent
from tests.security.store_functions import BUILDS_VALUES, WITHOUT_TENANT
from tests.store.builders import CHAT, MODEL, claim, commit, everything, submit

THEIRS, MINE = "theirs", "mine"
KEY = "their-idempotency-key"
SHA256 = "b" * 64
NO_ROOM = KeyLimits(max_queued_requests=0, max_queued_bytes=0)
PLENTY = 1 << 30  # of the limits that `room_bytes` compares with
OF_FILE: dict[str, Any] = {"name": "x", "purpose": "batch", "n_bytes": 1, "sha256": SHA256}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the other tenant has, in a database where nobody else has anything."""

    database: Database
    running: str
    failed: str
    paused: str
    file: str
    arriving: str
    webhook: str

    def ids(self) -> set[str]:
        """By each of them it could be recognized."""
        names = ("running", "failed", "paused", "file", "arriving", "webhook")
        return {getattr(self, name) for name in names}


@pytest.fixture
def world(database: Database) -> World:
    failed = submit(database, 2, tenant_id=THEIRS, idempotency_key=KEY, body_sha256=SHA256)
    lease = claim(database)
    commit(database, lease, [0], "internal_error")
    commit(database, lease, [1])
    finalize_batch(database, failed.id)
    register_worker(database, Worker(id="w1", model=MODEL, host="node", pid=1))
    running = submit(database, 9, tenant_id=THEIRS)
    claim(database)
    paused = submit(database, 3, tenant_id=THEIRS)
    pause_batch(database, paused.id, THEIRS)
    arriving = begin_upload(database, THEIRS)
    store_part(database, arriving, 0, b"x")
    webhook = add_webhook(
        database, "https://example.org/", tuple(WebhookEvent), tenant_id=THEIRS
    ).webhook
    return World(
        database=database,
        running=running.id,
        failed=failed.id,
        paused=paused.id,
        file=store(database, THEIRS),
        arriving=arriving,
        webhook=webhook.id,
    )


def store(database: Database, tenant_id: str) -> str:
    return store_content(database, tenant_id, b"{}", name="x", purpose="batch", n_lines=1).id


def enter_again(world: World, tenant_id: str) -> object:
    """Enter a file under an id that is taken, then look at what is there."""
    keep_output_file(world.database, tenant_id, world.file, **OF_FILE)
    return get_file(world.database, tenant_id, world.file)


def in_transaction(world: World, check: Callable[..., object], *arguments: object) -> object:
    return world.database.transact(lambda connection: check(connection, *arguments))


def used_bytes(world: World, tenant_id: str) -> int:
    room = room_bytes(world.database, tenant_id, KeyLimits(max_queued_bytes=PLENTY))
    assert room is not None
    return PLENTY - room


def known_call(tenant_id: str) -> Call:
    return Call(tenant_id=tenant_id, body_sha256=SHA256, idempotency_key=KEY)


Case = Callable[[World, str], object]
CASES: dict[str, Case] = {
    "get_batch": lambda w, t: get_batch(w.database, w.running, t),
    "find_batch": lambda w, t: find_batch(w.database, KEY, t),
    "list_batches": lambda w, t: list_batches(w.database, tenant_id=t),
    "cancel_batch": lambda w, t: cancel_batch(w.database, w.running, t),
    "pause_batch": lambda w, t: pause_batch(w.database, w.running, t),
    "resume_batch": lambda w, t: resume_batch(w.database, w.paused, t),
    "retry_batch": lambda w, t: retry_batch(w.database, w.failed, t),
    "keep_output_file": enter_again,
    "get_file": lambda w, t: get_file(w.database, t, w.file),
    "list_files": lambda w, t: list_files(w.database, t, limit=100),
    "files_with_content": lambda w, t: files_with_content(w.database, t, limit=100),
    "delete_file": lambda w, t: delete_file(w.database, t, w.file),
    "begin_upload": lambda w, t: begin_upload(w.database, t),
    "store_content": lambda w, t: store(w.database, t),
    "end_upload": lambda w, t: end_upload(w.database, t, w.arriving, n_lines=1, **OF_FILE),
    "check_room": lambda w, t: in_transaction(w, check_room, t, NO_ROOM),
    "check_queued_requests": lambda w, t: in_transaction(w, check_queued_requests, t, NO_ROOM),
    "check_stored_bytes": lambda w, t: in_transaction(w, check_stored_bytes, t, NO_ROOM),
    "room_bytes": used_bytes,
    "find_by_key": lambda w, t: in_transaction(w, find_by_key, t, KEY, SHA256),
    "find_known": lambda w, t: in_transaction(w, find_known, known_call(t)),
    "submit_batch": lambda w, t: submit(
        w.database, 2, tenant_id=t, idempotency_key=KEY, body_sha256=SHA256
    ),
    "create_batch": lambda w, t: create_batch(
        w.database, NewBatch(tenant_id=t, body_sha256="c" * 64, file_id=w.file, endpoint=CHAT)
    ),
    "add_webhook": lambda w, t: add_webhook(w.database, "https://a.org/", (), tenant_id=t),
    "get_webhook": lambda w, t: get_webhook(w.database, w.webhook, t),
    "list_webhooks": lambda w, t: list_webhooks(w.database, t),
    "remove_webhook": lambda w, t: remove_webhook(w.database, w.webhook, t),
    "worker_figures": lambda w, t: worker_figures(w.database, t),
}
WITH_TENANT = {"Call", "NewBatch", "Submission"}  # objects that name a tenant
WITH_ID = {"Batch", "Chunk", "Delivery", "Lease", "Ring", "StoredFile", "Validation"}
# They make something for whoever calls, whatever others have.
MAKERS = {"add_webhook", "begin_upload", "store_content", "submit_batch"}
PAGED: dict[str, Case] = {  # beside what is listed, the id where a page begins
    "list_batches": lambda w, t: list_batches(w.database, tenant_id=t, after=w.running),
    "list_files": lambda w, t: list_files(w.database, t, limit=9, after=w.file),
}


def test_every_function_that_takes_a_tenant_has_a_case() -> None:
    taking = {name for name, names in parameters().items() if takes_a_tenant(names)}
    assert taking == CASES.keys() | BUILDS_VALUES


def test_every_function_that_takes_an_id_without_a_tenant_has_a_reason() -> None:
    """A new one has to be entered in `store_functions.py`, with why it needs no tenant."""
    taking = {
        name
        for name, names in parameters().items()
        if not takes_a_tenant(names) and any(map(names_something, names.items()))
    }
    assert taking == {name for names in WITHOUT_TENANT.values() for name in names}


@pytest.mark.parametrize("name", CASES)
def test_with_the_wrong_tenant_nothing_is_found_or_changed(world: World, name: str) -> None:
    before = everything(world.database)
    found = outcome(CASES[name], world, MINE)
    after = everything(world.database)
    assert before <= after, "a row of the other tenant was changed"
    new = after - before
    assert not any(theirs in told for told in (found, *new) for theirs in (*world.ids(), THEIRS))
    assert bool(new) == (name in MAKERS)
    assert bool(found) == (name in MAKERS or name == "worker_figures")


@pytest.mark.parametrize("name", CASES.keys() - MAKERS)
def test_with_the_right_tenant_it_is(world: World, name: str) -> None:
    """The same calls as above: what they do not find is there."""
    before = everything(world.database)
    found = outcome(CASES[name], world, THEIRS)
    told = any(identity in found for identity in world.ids()) or "QueueFull" in found
    assert told or everything(world.database) != before or (name == "room_bytes" and found)


@pytest.mark.parametrize("name", PAGED)
def test_no_page_begins_at_what_another_tenant_has(world: World, name: str) -> None:
    assert outcome(PAGED[name], world, MINE) == ""
    PAGED[name](world, THEIRS)


def outcome(case: Case, world: World, tenant_id: str) -> str:
    """What the call tells, as text; empty for nothing, and for that there is no such thing."""
    try:
        told = case(world, tenant_id)
    except NotFoundError:
        return ""
    except QueueFull as exc:
        return repr(exc)
    return repr(told) if told else ""


def parameters() -> dict[str, dict[str, str]]:
    """Names and types of the parameters of every public function of the store."""
    return {
        function.__name__: {
            name: str(parameter.annotation)
            for name, parameter in inspect.signature(function).parameters.items()
        }
        for function in public_functions()
    }


def public_functions() -> Iterator[FunctionType]:
    for module in pkgutil.iter_modules(models.store.__path__, "models.store."):
        for name, member in vars(importlib.import_module(module.name)).items():
            is_own = inspect.isfunction(member) and member.__module__ == module.name
            if is_own and not name.startswith("_"):
                yield member


def takes_a_tenant(names: Mapping[str, str]) -> bool:
    """Whether one of the parameters is a tenant, or an object that names one."""
    return "tenant_id" in names or any(words(kind) & WITH_TENANT for kind in names.values())


def names_something(parameter: tuple[str, str]) -> bool:
    """Whether a tenant's rows could be meant by it: an id, or an object that holds one."""
    name, kind = parameter
    return name.endswith(("_id", "_ids")) or bool(words(kind) & WITH_ID)


def words(annotation: str) -> set[str]:
    return set(re.findall(r"\w+", annotation))
