"""How a batch ends, and who is still to be told.

`end_batch` is the only way in which a batch becomes terminal, so that no end goes untold.
A delivery is claimed by moving its `not_before` on before anything is sent: nobody else tries
meanwhile, and when the process dies the next attempt comes by itself.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, insert, select, update

from models.clock import db_now
from models.database import Database
from models.states import BatchState
from models.store.transitions import move_batches
from models.tables import batches, deliveries, webhooks
from models.webhooks import EVENT_OF_STATE, WebhookEvent

# After each attempt; together with the first one 8 attempts within a day. The first wait is also
# as long as nobody else may try: longer than an attempt takes.
WAITS_S: Final = (10.0, 60.0, 300.0, 1800.0, 7200.0, 21600.0, 54000.0)
MAX_ATTEMPTS: Final = len(WAITS_S) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An event that is to be sent now; `attempt` from 1."""

    id: str
    webhook_id: str
    event: WebhookEvent
    batch_id: str
    created_at: float
    attempt: int
    url: str
    secret: str = field(repr=False)


def end_batch(connection: Connection, batch_id: str, target: BatchState, **values: Any) -> bool:
    """Move the batch to its end if it may go there, and note whom to tell; False if it may not."""
    ending = move_batches(target).where(batches.c.id == batch_id)
    if connection.execute(ending.values(**values)).rowcount == 0:
        return False
    _note_deliveries(connection, batch_id, EVENT_OF_STATE[target])
    return True


def claim_delivery(database: Database) -> Delivery | None:
    """Take the delivery that has waited longest of those that are due, for one attempt."""
    due = (
        select(deliveries, webhooks.c.url, webhooks.c.secret)
        .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
        .where(deliveries.c.ended_at.is_(None), deliveries.c.not_before <= db_now())
        .order_by(deliveries.c.not_before, deliveries.c.id)
        .limit(1)
    )

    def claim(connection: Connection) -> Delivery | None:
        locked = due.with_for_update(of=deliveries, skip_locked=True)
        row = connection.execute(locked).mappings().first()
        if row is None:
            return None
        n_before = row["attempts"]
        wait_s = WAITS_S[min(n_before, len(WAITS_S) - 1)]
        values = {"attempts": n_before + 1, "not_before": db_now() + wait_s}
        connection.execute(update(deliveries).where(deliveries.c.id == row["id"]).values(values))
        return Delivery(
            **{name: row[name] for name in ("id", "webhook_id", "batch_id", "created_at")},
            event=WebhookEvent(row["event"]),
            attempt=n_before + 1,
            url=row["url"],
            secret=row["secret"],
        )

    # A look without the write lock: nearly always nothing is due.
    with database.read() as connection:
        if connection.execute(due).first() is None:
            return None
    return database.transact(claim)


def end_delivery(database: Database, delivery: Delivery, error: str | None) -> bool:
    """Note how the attempt went: None is success. Returns whether nothing more will be tried.

    After a failure everything else for the same receiver waits a little too, so that one that is
    away does not keep the others waiting.
    """
    has_ended = error is None or delivery.attempt >= MAX_ATTEMPTS
    ended_at = {"ended_at": db_now()} if has_ended else {}
    is_it = deliveries.c.id == delivery.id
    others = (
        select(deliveries.c.id)
        .where(deliveries.c.webhook_id == delivery.webhook_id, ~is_it)
        .where(deliveries.c.ended_at.is_(None))
        .where(deliveries.c.not_before < db_now() + WAITS_S[0])
        .with_for_update(skip_locked=True)  # two that fail at once do not wait for each other
    )

    def end(connection: Connection) -> None:
        values = {"last_error": error, **ended_at}
        connection.execute(update(deliveries).where(is_it).values(values))
        if error is not None:
            waiting = update(deliveries).where(deliveries.c.id.in_(others))
            connection.execute(waiting.values(not_before=db_now() + WAITS_S[0]))

    database.transact(end, replayable=True)
    return has_ended


def _note_deliveries(connection: Connection, batch_id: str, event: WebhookEvent) -> None:
    # Locked, so that a receiver that is removed meanwhile is either told or gone, and never
    # makes the batch's end fail.
    listening = (
        select(webhooks.c.id, webhooks.c.events)
        .join(batches, batches.c.tenant_id == webhooks.c.tenant_id)
        .where(batches.c.id == batch_id)
        .with_for_update(of=webhooks, read=True, key_share=True)
    )
    rows = [
        {
            "id": f"evt_{uuid.uuid4().hex}",
            "webhook_id": row.id,
            "event": str(event),
            "batch_id": batch_id,
        }
        for row in connection.execute(listening)
        if str(event) in row.events
    ]
    if rows:
        noting = insert(deliveries).values(created_at=db_now(), attempts=0, not_before=db_now())
        connection.execute(noting, rows)
