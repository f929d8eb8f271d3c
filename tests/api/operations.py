"""Every call that needs a key, as data, and what a tenant has that no other may see."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import httpx2
from fastapi.routing import iter_route_contexts

from api.app import create_app
from api.site.session import COOKIE
from models.database import Database
from models.settings import Settings
from models.store.batches import finalize_batch
from models.store.keys import NewKey, Scope, create_key
from models.store.leases import claim_next
from models.store.views import Batch, Worker
from models.store.webhooks import add_webhook
from models.store.workers import register_worker
from models.webhooks import WebhookEvent
from tests.api.serving import client
from tests.servers import wait_until
from tests.store.builders import MODEL, TTL_S, finish, submit

PUBLIC = {
    *("/health", "/ready", "/metrics"),
    *("/docs", "/docs/oauth2-redirect", "/openapi.json"),
    *("/sign-in", "/sign-out", "/static"),
}
SHARED = {"model"}  # path parameters that name what all tenants see
CHOICES = {"kind": ("output", "errors"), "change": ("cancel", "pause", "resume")}  # or are no ids
FORM = {"content-type": "application/x-www-form-urlencoded"}
JSON = {"content-type": "application/json"}


def line(number: int, more: str = "") -> bytes:
    body = f'{{"model":"demo","messages":[{{"role":"user","content":"x"}}]{more}}}'
    start = f'{{"custom_id":"r{number}","method":"POST","url":"/v1/chat/completions"'
    return f'{start},"body":{body}}}\n'.encode()


LINES = line(0) + line(1)
CREATE = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one route of the API or of the page."""

    method: str
    path: str

    @property
    def is_page(self) -> bool:
        """Whether people read the answer."""
        return not self.path.startswith("/v1/")

    @property
    def id_names(self) -> list[str]:
        """The path parameters that name something of a tenant."""
        names = re.findall(r"{(\w+)}", self.path)
        return [name for name in names if name not in SHARED and name not in CHOICES]

    def addresses(self, ids: Mapping[str, Sequence[str]]) -> list[str]:
        """Its path with everything that there is of that name."""
        known = {**CHOICES, **ids}
        names = re.findall(r"{(\w+)}", self.path)
        assert set(names) <= set(known), f"{self.path}: say here what its ids can be"
        return [
            self.path.format(**dict(zip(names, values, strict=True)))
            for values in product(*(known[name] for name in names))
        ]

    def send(self, session: httpx2.Client, at: str | None = None, **query: str) -> httpx2.Response:
        """The answer, for a body that is none but of the right kind."""
        at = at or self.path
        if self.method != "POST":
            return session.request(self.method, at, params=query)
        content, headers = (b"", FORM) if self.is_page else (b"{}", JSON)
        return session.post(at, params=query, content=content, headers=headers)


def operations(database: Database) -> list[Operation]:
    """All of them; what is added to the application is here without being named."""
    found = [
        Operation(method, str(route.path))
        for route in iter_route_contexts(create_app(Settings(), database).routes)
        if route.path not in PUBLIC
        for method in sorted(route.methods or ())
    ]
    assert len(found) >= 30
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """The ids of what one tenant has: an ended batch with its files, and one that runs."""

    batch_id: str
    running_id: str
    file_id: str
    output_file_id: str
    error_file_id: str
    webhook_id: str

    def ids(self) -> dict[str, list[str]]:
        """By the names of path parameters; all of it can be read at once."""
        return {
            "batch_id": [self.batch_id],
            "file_id": [self.file_id, self.output_file_id, self.error_file_id],
            "webhook_id": [self.webhook_id],
        }

    def all_ids(self) -> dict[str, list[str]]:
        """With the batch that runs."""
        return {**self.ids(), "batch_id": [self.batch_id, self.running_id]}


def own_something(database: Database, url: str, token: str, tenant_id: str) -> Owned:
    """What there can be, by the tenant's own calls where it is made by calls."""
    with client(url, token) as session:
        content = line(0) + line(1, ',"stream":true')  # of which the second is refused
        file_id = upload(session, content).json()["id"]
        batch = session.post("/v1/batches", json={"input_file_id": file_id, **CREATE}).json()
        at = f"/v1/batches/{batch['id']}"
        wait_until(lambda: session.get(at).json()["status"] == "in_progress", "it is validated")
        lease = claim_next(database, MODEL, "w1", ttl_s=TTL_S, only_batch=batch["id"])
        assert lease is not None
        finish(database, lease)
        finalize_batch(database, batch["id"])
        ended = session.get(at).json()
    assert ended["status"] == "completed"
    webhook = add_webhook(
        database, "https://example.org/", tuple(WebhookEvent), tenant_id=tenant_id
    ).webhook
    return Owned(
        batch_id=batch["id"],
        running_id=run_something(database, tenant_id).id,
        file_id=file_id,
        output_file_id=ended["output_file_id"],
        error_file_id=ended["error_file_id"],
        webhook_id=webhook.id,
    )


def run_something(database: Database, tenant_id: str) -> Batch:
    """A batch of which a live worker holds a chunk."""
    batch = submit(database, 9, tenant_id=tenant_id, file_name="secret.jsonl")
    register_worker(database, Worker(id="w1", model=MODEL, host="node", pid=1))
    assert claim_next(database, MODEL, "w1", ttl_s=TTL_S, only_batch=batch.id) is not None
    return batch


def upload(session: httpx2.Client, content: bytes, path: str = "/v1/files") -> httpx2.Response:
    files = {"file": ("in.jsonl", content)}
    return session.post(path, files=files, data={"purpose": "batch"})


def make_key(database: Database, tenant_id: str = "mine", *scopes: Scope) -> str:
    new = NewKey(name="test", tenant_id=tenant_id, scopes=frozenset(scopes or Scope))
    return create_key(database, new)[1]


def visitor(url: str, token: str | None) -> httpx2.Client:
    """Sends the token as programs do and as browsers do; the caller closes it."""
    session = client(url, token)
    session.headers["origin"] = url
    if token is not None:
        session.headers["cookie"] = f"{COOKIE}={token}"
    return session


def refusal(answer: httpx2.Response) -> tuple[int, str]:
    """Status, and the code of the API's error or the page's sentence; empty where none is told."""
    if not answer.is_error:
        return answer.status_code, ""
    if "html" not in answer.headers["content-type"]:
        return answer.status_code, answer.json()["error"]["code"]
    (sentence,) = re.findall(r"<p data-problem>(.+?)</p>", answer.text)
    return answer.status_code, sentence
