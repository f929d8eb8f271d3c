"""Registering webhooks: by the official client, once with a secret, and each tenant for itself."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from models.database import Database
from models.store.webhooks import MAX_PER_TENANT, add_webhook, list_webhooks
from models.webhooks import WebhookEvent
from tests.api.serving import serving

ALL = tuple(WebhookEvent)


def test_the_official_client_registers_lists_and_removes(database: Database) -> None:
    with serving(database, webhooks=True) as url:
        client = OpenAI(
            base_url=f"{url}/v1", api_key="none", _strict_response_validation=True, max_retries=0
        )
        added = client.webhooks.create(
            name="mine",
            url="https://example.org/hook",
            event_types=["batch.completed", "batch.failed"],
        )
        assert added.signing_secret.startswith("whsec_")
        shown = client.webhooks.retrieve(added.id)
        assert (shown.name, shown.url) == ("mine", "https://example.org/hook")
        assert shown.event_types == ["batch.completed", "batch.failed"]
        more = [
            client.webhooks.create(name="", url="https://example.org/", event_types=[])
            for _ in range(2)
        ]
        listed = [webhook.id for webhook in client.webhooks.list(limit=2)]
        assert listed == [more[1].id, more[0].id, added.id]
        assert client.webhooks.delete(added.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.webhooks.delete(added.id)
        assert len(list(client.webhooks.list())) == 2
        with pytest.raises(openai.NotFoundError):
            client.webhooks.list(after=added.id)


def test_the_secret_is_shown_once(database: Database) -> None:
    with serving(database, webhooks=True) as url:
        body = {"url": "https://example.org/hook"}
        added = httpx2.post(f"{url}/v1/webhooks", json=body).json()
        secret = added.pop("signing_secret")
        assert added["event_types"] == list(ALL)
        listed = httpx2.get(f"{url}/v1/webhooks")
        read = httpx2.get(f"{url}/v1/webhooks/{added['id']}")
        assert listed.json()["data"] == [read.json()] == [added]
        assert secret not in listed.text + read.text
        again = httpx2.post(f"{url}/v1/webhooks", json=body).json()
        assert again["signing_secret"] != secret


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"url": "http://example.org/"}, None),
        ({"url": "https://127.0.0.1/"}, None),
        ({"url": "https://example.org/", "event_types": ["batch.started"]}, None),
        ({"url": "https://example.org/", "name": "x" * 129}, "name"),
        ({"url": "https://example.org/", "secret": "mine"}, "secret"),
        ({}, "url"),
    ],
)
def test_a_webhook_that_cannot_be_is_refused(
    database: Database, body: dict[str, Any], param: str | None
) -> None:
    with serving(database, webhooks=True) as url:
        answer = httpx2.post(f"{url}/v1/webhooks", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_value"
    assert answer.json()["error"]["param"] == param
    assert list_webhooks(database) == []


def test_a_tenant_has_a_bounded_number(database: Database) -> None:
    for _ in range(MAX_PER_TENANT):
        add_webhook(database, "https://example.org/", ALL)
    add_webhook(database, "https://example.org/", ALL, tenant_id="other")
    with serving(database, webhooks=True) as url:
        answer = httpx2.post(f"{url}/v1/webhooks", json={"url": "https://example.org/"})
    assert answer.status_code == 400
    assert "remove one first" in answer.json()["error"]["message"]


def test_another_tenants_webhook_does_not_exist(database: Database) -> None:
    theirs = add_webhook(database, "https://example.org/", ALL, tenant_id="other").webhook
    with serving(database, webhooks=True) as url:
        assert httpx2.get(f"{url}/v1/webhooks").json()["data"] == []
        for call in (httpx2.get, httpx2.delete):
            assert call(f"{url}/v1/webhooks/{theirs.id}").status_code == 404
    assert len(list_webhooks(database, "other")) == 1


def test_webhooks_are_off_by_default(database: Database) -> None:
    with serving(database) as url:
        answer = httpx2.post(f"{url}/v1/webhooks", json={"url": "https://example.org/"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "webhooks_disabled")
        assert httpx2.get(f"{url}/v1/webhooks").json()["data"] == []
    assert list_webhooks(database) == []
