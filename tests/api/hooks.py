"""What the tests of webhooks share: a receiver, batches that end, and looks at what was sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from openai import OpenAI
from sqlalchemy import update

from models.database import Database
from models.store.batches import finalize_batch
from models.store.creation import NewBatch, create_batch
from models.store.uploads import store_content
from models.store.views import DEFAULT_TENANT, Batch
from models.store.webhooks import NewWebhook, add_webhook
from models.tables import deliveries
from models.webhooks import WebhookEvent
from tests.api.receiver import Received, Receiver, receiving
from tests.api.serving import serving
from tests.servers import wait_until
from tests.store.builders import rows, submit, work_off

OPEN: Final[dict[str, Any]] = {"webhooks": True, "webhook_private_addresses": True}
ALL = tuple(WebhookEvent)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@contextmanager
def listening(database: Database, receiver: Receiver) -> Iterator[str]:
    """A server whose webhooks may lead to this machine."""
    with serving(database, **OPEN) as url:
        yield url
        receiver.over.set()  # so that nobody waits for an attempt that waits for its answer


def register(database: Database, receiver: Receiver, **more: Any) -> NewWebhook:
    return add_webhook(database, receiver.url, more.pop("events", ALL), **more)


def complete(database: Database, **more: Any) -> Batch:
    batch = submit(database, 8, **more)
    work_off(database)
    return finalize_batch(database, batch.id)


def unwrap(received: Received, secret: str) -> Any:
    """What the official client makes of it; raises when the signature is wrong."""
    return OpenAI(api_key="none").webhooks.unwrap(received.body, received.headers, secret=secret)


def wait_received(receiver: Receiver, n_requests: int) -> None:
    what = f"the receiver has got {n_requests} requests"
    wait_until(lambda: len(receiver.received) >= n_requests, what)


def wait_ended(database: Database) -> list[dict[str, Any]]:
    def have_ended() -> bool:
        return all(row["ended_at"] is not None for row in rows(database, deliveries))

    wait_until(have_ended, "every delivery has ended")
    return rows(database, deliveries)


def let_time_pass(database: Database) -> None:
    """Every delivery that waits for its next attempt is due."""
    with database.begin() as connection:
        connection.execute(update(deliveries).values(not_before=0.0))


def create_for_an_unknown_model(database: Database) -> str:
    """A batch of an uploaded file whose model nobody serves: its validation ends it."""
    content = json.dumps(
        {
            "custom_id": "r-1",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "nobody", "messages": [{"role": "user", "content": "x"}]},
        }
    ).encode()
    file = store_content(
        database, DEFAULT_TENANT, content, name="in.jsonl", purpose="batch", n_lines=1
    )
    new = NewBatch(
        tenant_id=DEFAULT_TENANT,
        file_id=file.id,
        endpoint="/v1/chat/completions",
        body_sha256="0" * 64,
    )
    return create_batch(database, new).batch.id
