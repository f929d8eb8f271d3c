"""Webhooks: who wants to hear of the end of a tenant's batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    delete,
    func,
    insert,
    select,
)

from models.clock import db_now
from models.database import Database
from models.errors import InputError, NotFoundError
from models.store.submit import new_id
from models.store.views import DEFAULT_TENANT
from models.tables import webhooks
from models.webhooks import WebhookEvent, new_secret

MAX_PER_TENANT: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A registered receiver, without its secret."""

    id: str
    name: str
    url: str
    events: tuple[WebhookEvent, ...]
    created_at: float


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """A receiver that was just registered; the secret is told this once."""

    webhook: Webhook
    secret: str = field(repr=False)


def add_webhook(
    database: Database,
    url: str,
    events: Sequence[WebhookEvent],
    *,
    name: str = "",
    tenant_id: str = DEFAULT_TENANT,
) -> NewWebhook:
    """Register a receiver of a URL that was checked; it hears of batches that end from now on.

    Raises InputError when the tenant has too many.
    """
    webhook_id, secret = new_id("we_"), new_secret()
    values = {
        "id": webhook_id,
        "tenant_id": tenant_id,
        "name": name,
        "url": url,
        "secret": secret,
        "events": [str(event) for event in events],
        "created_at": db_now(),
    }

    def add(connection: Connection) -> None:
        counting = select(func.count()).where(webhooks.c.tenant_id == tenant_id)
        if connection.execute(counting).scalar_one() >= MAX_PER_TENANT:
            raise InputError(f"there are {MAX_PER_TENANT} webhooks already: remove one first")
        connection.execute(insert(webhooks).values(values))

    database.transact(add)
    return NewWebhook(get_webhook(database, webhook_id, tenant_id), secret)


def get_webhook(database: Database, webhook_id: str, tenant_id: str = DEFAULT_TENANT) -> Webhook:
    """Raises NotFoundError, also for another tenant's webhook."""
    statement = select(webhooks).where(_is(webhook_id, tenant_id))
    with database.read() as connection:
        row = connection.execute(statement).mappings().first()
    if row is None:
        raise _unknown(webhook_id)
    return _view(row)


def list_webhooks(database: Database, tenant_id: str = DEFAULT_TENANT) -> list[Webhook]:
    """All of the tenant's, newest first."""
    statement = select(webhooks).where(webhooks.c.tenant_id == tenant_id)
    statement = statement.order_by(webhooks.c.created_at.desc(), webhooks.c.id.desc())
    with database.read() as connection:
        return [_view(row) for row in connection.execute(statement).mappings()]


def remove_webhook(database: Database, webhook_id: str, tenant_id: str = DEFAULT_TENANT) -> None:
    """Forget a receiver and what it was not told yet. Raises NotFoundError."""
    removing = delete(webhooks).where(_is(webhook_id, tenant_id))
    if not database.transact(lambda connection: connection.execute(removing).rowcount):
        raise _unknown(webhook_id)


def _is(webhook_id: str, tenant_id: str) -> ColumnElement[bool]:
    return and_(webhooks.c.id == webhook_id, webhooks.c.tenant_id == tenant_id)


def _unknown(webhook_id: str) -> NotFoundError:
    return NotFoundError(f"there is no webhook {webhook_id}: `nightshift webhook list` shows all")


def _view(row: RowMapping) -> Webhook:
    return Webhook(
        id=row["id"],
        name=row["name"],
        url=row["url"],
        events=tuple(WebhookEvent(name) for name in row["events"]),
        created_at=row["created_at"],
    )
