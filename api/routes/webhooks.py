"""Webhooks: register, list, read, remove.

The objects are those of OpenAI's API, so that its client's `webhooks` work here too, at its own
path `/v1/webhook_endpoints`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from api.access import CallerDep
from api.bodies import body_schema, json_body
from api.pages import page_of
from api.problems import Problem
from api.services import ServicesDep
from api.shapes import Page, Shape
from models.errors import NotFoundError
from models.store.webhooks import (
    Webhook,
    add_webhook,
    get_webhook,
    list_webhooks,
    remove_webhook,
)
from models.webhooks import (
    MAX_NAME_CHARACTERS,
    MAX_URL_CHARACTERS,
    WebhookEvent,
    WebhookUrl,
    checked_events,
)

router = APIRouter(tags=["webhooks"])

PATH = "/v1/webhooks"
OPENAI_PATH = "/v1/webhook_endpoints"


class WebhookObject(Shape):
    """A registered receiver."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int
    name: str
    url: str
    event_types: list[WebhookEvent]


class NewWebhookObject(WebhookObject):
    """A receiver that was just registered, with the secret that is shown this once."""

    signing_secret: str = Field(repr=False)


class DeletedWebhook(Shape):
    """The receipt of a removal."""

    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: Literal[True] = True


class CreateWebhook(Shape):
    """A receiver to register; without `event_types` it hears of every end."""

    url: Annotated[str, Field(max_length=MAX_URL_CHARACTERS)]
    event_types: Annotated[Sequence[str], Field(max_length=len(WebhookEvent))] = ()
    name: Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)] = ""


@router.post(PATH, openapi_extra=body_schema(CreateWebhook))
@router.post(OPENAI_PATH, include_in_schema=False)
def register(
    services: ServicesDep,
    caller: CallerDep,
    body: Annotated[CreateWebhook, Depends(json_body(CreateWebhook))],
) -> NewWebhookObject:
    """Register a receiver of events; the answer alone holds its signing secret."""
    settings = services.settings
    if not settings.webhooks:
        message = "webhooks are switched off here: the operator sets NIGHTSHIFT_WEBHOOKS=true"
        raise Problem(403, message, "webhooks_disabled")
    WebhookUrl.parse(body.url, private_addresses=settings.webhook_private_addresses)
    events = checked_events(body.event_types)
    added = add_webhook(
        services.database, body.url, events, name=body.name, tenant_id=caller.tenant_id
    )
    return NewWebhookObject(**_shown(added.webhook).model_dump(), signing_secret=added.secret)


@router.get(PATH)
@router.get(OPENAI_PATH, include_in_schema=False)
def list_all(
    services: ServicesDep,
    caller: CallerDep,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Page[WebhookObject]:
    """The registered receivers, newest first."""
    found = [_shown(webhook) for webhook in list_webhooks(services.database, caller.tenant_id)]
    return page_of(_following(found, after)[: limit + 1], limit)


@router.get(f"{PATH}/{{webhook_id}}")
@router.get(f"{OPENAI_PATH}/{{webhook_id}}", include_in_schema=False)
def read(webhook_id: str, services: ServicesDep, caller: CallerDep) -> WebhookObject:
    """One receiver."""
    return _shown(get_webhook(services.database, webhook_id, caller.tenant_id))


@router.delete(f"{PATH}/{{webhook_id}}")
@router.delete(f"{OPENAI_PATH}/{{webhook_id}}", include_in_schema=False)
def remove(webhook_id: str, services: ServicesDep, caller: CallerDep) -> DeletedWebhook:
    """Remove a receiver, and what it was not told yet."""
    remove_webhook(services.database, webhook_id, caller.tenant_id)
    return DeletedWebhook(id=webhook_id)


def _following(found: list[WebhookObject], after: str | None) -> list[WebhookObject]:
    """What comes after the item of that id; there are few, so that all were read."""
    if after is None:
        return found
    ids = [webhook.id for webhook in found]
    if after not in ids:
        raise NotFoundError(f"there is no webhook {after}")
    return found[ids.index(after) + 1 :]


def _shown(webhook: Webhook) -> WebhookObject:
    return WebhookObject(
        id=webhook.id,
        created_at=int(webhook.created_at),
        name=webhook.name,
        url=webhook.url,
        event_types=list(webhook.events),
    )
