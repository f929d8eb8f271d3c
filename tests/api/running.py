"""A running API over each of the two databases, whose batches the tests answer themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from models.database import Database, connect_database, upgrade
from models.store.batches import finalize_batch
from models.store.leases import claim_next
from tests.api.live import LiveServer, live_server
from tests.cli.console import Console
from tests.servers import PostgresServer, wait_until
from tests.store.builders import MODEL, TTL_S, finish

TIMEOUT_S = 60
ENVELOPE = {"message", "type", "param", "code"}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Served:
    """The server, and the database behind it."""

    server: LiveServer
    database: Database

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return httpx2.get(f"{self.server.url}{path}", timeout=TIMEOUT_S, **options)

    def post(self, path: str, body: Json | None = None, **headers: str) -> httpx2.Response:
        content = None if body is None else json.dumps(body).encode()
        given = {} if body is None else {"content-type": "application/json"}
        return httpx2.post(
            f"{self.server.url}{path}",
            content=content,
            headers={**given, **headers},
            timeout=TIMEOUT_S,
        )

    def answer_chunk(self, batch_id: str) -> None:
        """Answer the requests of the batch's next chunk; other batches of the module are left."""
        lease = claim_next(self.database, MODEL, "w1", ttl_s=TTL_S, only_batch=batch_id)
        assert lease is not None
        finish(self.database, lease)

    def end(self, batch_id: str) -> None:
        """Answer what is left of the batch, and close it."""
        while finalize_batch(self.database, batch_id).remaining:
            self.answer_chunk(batch_id)
        finalize_batch(self.database, batch_id)

    def await_status(self, batch_id: str, status: str) -> Json:
        """The batch as soon as it is like that."""
        wait_until(lambda: self.batch(batch_id)["status"] == status, f"the batch is {status}")
        return self.batch(batch_id)

    def batch(self, batch_id: str) -> Json:
        answer = self.get(f"/v1/batches/{batch_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """The API over an empty database, shared by the tests of a module."""
    home = tmp_path_factory.mktemp("home")
    url = f"sqlite:///{home / 'nightshift.db'}"
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.create_database()
    with running(Console(home, {"NIGHTSHIFT_DATABASE_URL": url})) as running_server:
        yield running_server


@contextmanager
def running(console: Console) -> Iterator[Served]:
    """The API over the database that the console's settings name."""
    url = console.settings["NIGHTSHIFT_DATABASE_URL"]
    upgrade(url).close()
    with live_server(console, "--no-keys") as server, connect_database(url) as database:
        yield Served(server, database)


def error_of(answer: httpx2.Response) -> tuple[int, str | None, str | None]:
    """Status, code and parameter of an error; it has the envelope and nothing else."""
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == ENVELOPE
    return answer.status_code, error["code"], error["param"]
