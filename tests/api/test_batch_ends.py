"""Every end of a batch is told to its tenant's receivers, once and signed."""

from __future__ import annotations

import json
import re
from functools import partial

import httpx2
import openai
import pytest
from sqlalchemy import update

from models.database import Database
from models.states import BatchState, is_terminal
from models.store.batches import cancel_batch, finalize_batch, get_batch
from models.store.retry import retry_batch
from models.store.submit import submit_batch
from models.store.sweep import sweep
from models.store.views import DEFAULT_TENANT
from models.store.webhooks import add_webhook
from models.tables import batches, deliveries
from models.webhooks import EVENT_OF_STATE, WebhookEvent
from tests.api.hooks import (
    ALL,
    OPEN,
    complete,
    create_for_an_unknown_model,
    listening,
    register,
    unwrap,
    wait_ended,
    wait_received,
)
from tests.api.receiver import Received, Receiver
from tests.api.serving import serving
from tests.documents import ROOT
from tests.servers import wait_until
from tests.store.builders import at_once, count, refused, rows, submission, submit, work_off


def end_completed(database: Database) -> str:
    return complete(database).id


def end_refused(database: Database) -> str:
    """Every line was refused, each alone: there is nothing to run."""
    return submit_batch(database, submission(), [refused(0)]).batch.id


def end_failed(database: Database) -> str:
    """No line is JSON."""
    lines = [refused(number, code="invalid_json_line") for number in range(2)]
    return submit_batch(database, submission(), lines).batch.id


def end_cancelled(database: Database) -> str:
    return cancel_batch(database, submit(database, 8).id).id


def end_expired(database: Database) -> str:
    batch = submit(database, 8, completion_window_s=3600.0)
    with database.begin() as connection:
        connection.execute(update(batches).where(batches.c.id == batch.id).values(expires_at=0.0))
    sweep(database, dispatch_timeout_s=60, max_crashes=3)
    return batch.id


def end_retried(database: Database) -> str:
    old = submit(database, 8, tenant_id="other")
    cancel_batch(database, old.id, "other")
    with database.begin() as connection:  # whose end was another tenant's to hear
        connection.execute(update(batches).values(tenant_id=DEFAULT_TENANT))
    again = retry_batch(database, old.id)
    work_off(database)
    return finalize_batch(database, again.id).id


ENDS = (
    (end_completed, BatchState.COMPLETED),
    (end_refused, BatchState.COMPLETED),
    (end_failed, BatchState.FAILED),
    (create_for_an_unknown_model, BatchState.FAILED),
    (end_cancelled, BatchState.CANCELLED),
    (end_expired, BatchState.EXPIRED),
    (end_retried, BatchState.COMPLETED),
)


def test_every_end_is_told_once_and_the_official_client_verifies_it(
    database: Database, receiver: Receiver
) -> None:
    secret = register(database, receiver).secret
    with listening(database, receiver):
        ended = {end(database): state for end, state in ENDS}
        wait_received(receiver, len(ended))
        wait_until(lambda: count(database, deliveries) == len(ended), "each end is noted")
        noted = {row["id"]: row for row in wait_ended(database)}
    assert len(receiver.received) == len(ended)
    for received in receiver.received:
        event = unwrap(received, secret)
        state = ended.pop(event.data.id)
        batch = get_batch(database, event.data.id)
        assert batch.state is state
        assert noted[event.id]["batch_id"] == batch.id
        assert json.loads(received.body) == {
            "id": event.id,
            "object": "event",
            "created_at": event.created_at,
            "type": f"batch.{state}",
            "data": {"id": batch.id},
        }
        assert abs(event.created_at - getattr(batch, f"{state}_at")) <= 2
        assert received.path == "/hook?key=1"
        assert received.headers["content-type"] == "application/json"
        assert received.headers["webhook-id"] == event.id
    assert ended == {}


def test_no_batch_ends_without_being_told() -> None:
    ends = "|".join(state.name for state in EVENT_OF_STATE)
    elsewhere = [
        path.name
        for path in (ROOT / "models" / "store").glob("*.py")
        if re.search(rf"move_batches\(BatchState\.({ends})\)", path.read_text())
    ]
    assert elsewhere == []
    assert set(EVENT_OF_STATE) == {state for state in BatchState if is_terminal(state)}


def test_what_was_signed_by_somebody_else_or_changed_is_not_verified(
    database: Database, receiver: Receiver
) -> None:
    secret = register(database, receiver).secret
    with listening(database, receiver):
        complete(database)
        wait_received(receiver, 1)
    (received,) = receiver.received
    with pytest.raises(openai.InvalidWebhookSignatureError):
        unwrap(received, add_webhook(database, "https://example.org/", ALL).secret)
    changed = Received(received.path, received.headers, received.body + b" ")
    with pytest.raises(openai.InvalidWebhookSignatureError):
        unwrap(changed, secret)


def test_what_ended_while_webhooks_were_off_is_told_later(
    database: Database, receiver: Receiver
) -> None:
    register(database, receiver)
    with serving(database):
        complete(database)
    assert receiver.received == []
    with listening(database, receiver):
        wait_received(receiver, 1)


def test_only_the_tenants_own_webhooks_of_that_event_are_told(
    database: Database, receiver: Receiver
) -> None:
    wanted = register(database, receiver, events=(WebhookEvent.COMPLETED,)).webhook
    register(database, receiver, events=(WebhookEvent.FAILED, WebhookEvent.EXPIRED))
    register(database, receiver, tenant_id="other")
    complete(database)
    assert [row["webhook_id"] for row in rows(database, deliveries)] == [wanted.id]


def test_an_end_that_is_noted_twice_is_told_once(database: Database, receiver: Receiver) -> None:
    register(database, receiver)
    batch = submit(database, 8)
    work_off(database)
    at_once([lambda: finalize_batch(database, batch.id) for _ in range(4)])
    assert len(rows(database, deliveries)) == 1


def test_a_receiver_that_is_removed_while_batches_end_breaks_nothing(
    database: Database, receiver: Receiver
) -> None:
    ids = [register(database, receiver).webhook.id for _ in range(6)]
    found = [submit(database, 8) for _ in range(6)]
    work_off(database)
    with serving(database, **OPEN) as url:

        def remove(webhook_id: str) -> int:
            return httpx2.delete(f"{url}/v1/webhooks/{webhook_id}").status_code

        def end(batch_id: str) -> int:
            return finalize_batch(database, batch_id).completed

        removals = [partial(remove, webhook_id) for webhook_id in ids]
        done = at_once([*removals, *(partial(end, batch.id) for batch in found)])
    assert done == [200] * len(ids) + [8] * len(found)
    assert {get_batch(database, batch.id).state for batch in found} == {BatchState.COMPLETED}
    assert rows(database, deliveries) == []
