"""PostgreSQL goes away while the API runs: callers are told to come back, and then all goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from models.database import upgrade
from models.store.files import PART_BYTES
from models.store.keys import NewKey, create_key
from tests.api.running import TIMEOUT_S, Json, Served, error_of, running
from tests.api.serving import EVERYWHERE, client, serving
from tests.api.test_hostile_lines import create, line, register
from tests.api.test_uploads import FILE_FIELD, form, purpose
from tests.api.test_watching import events
from tests.cli.console import Console
from tests.servers import PostgresServer, started
from tests.store.builders import CHAT, submit

AWAY = (503, "database_unavailable", None)
MULTIPART = {"content-type": "multipart/form-data; boundary=b"}
WINDOW = {"endpoint": CHAT, "completion_window": "24h"}
REQUESTS: Json = {"requests": [json.loads(line("a"))], **WINDOW}

GETS = (
    "/ready",
    "/v1/batches",
    "/v1/batches/batch_1",
    "/v1/batches/batch_1?wait=1",
    "/v1/batches/batch_1/events",
    "/v1/batches/batch_1/manifest",
    "/v1/batches/batch_1/results",
    "/v1/canaries",
    "/v1/files",
    "/v1/files/file-1",
    "/v1/files/file-1/content",
    "/v1/files/file-1-output/content",
    "/v1/models",
    "/v1/webhooks",
    "/v1/workers",
)
POSTS: tuple[tuple[str, Json | None], ...] = (
    ("/v1/batches", {"input_file_id": "file-1", **WINDOW}),
    ("/v1/batches", REQUESTS),
    ("/v1/batches:estimate", REQUESTS),
    ("/v1/batches/batch_1/cancel", None),
    ("/v1/batches/batch_1/pause", None),
    ("/v1/batches/batch_1/resume", None),
    ("/v1/batches/batch_1/retry", {}),
)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A server that these tests alone may stop."""
    with started(PostgresServer()) as server:
        yield server


@pytest.fixture(scope="module")
def served(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = {"NIGHTSHIFT_DATABASE_URL": postgres.create_database()}
    with running(Console(tmp_path_factory.mktemp("home"), settings)) as server:
        register(server)
        yield server


@contextmanager
def away(postgres: PostgresServer) -> Iterator[None]:
    postgres.stop()
    try:
        yield
    finally:
        postgres.start()


def check_away(answer: httpx2.Response) -> None:
    assert error_of(answer) == AWAY, answer.request.url
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-request-id"]
    assert "postgres" not in answer.text


def test_every_call_is_told_to_come_back_and_then_goes_on(
    served: Served, postgres: PostgresServer
) -> None:
    batch = submit(served.database, 8)
    with away(postgres):
        for path in GETS:
            check_away(served.get(path))
        for path, body in POSTS:
            check_away(served.post(path, body))
        check_away(httpx2.delete(f"{served.server.url}/v1/files/file-1", timeout=TIMEOUT_S))
        content = form((FILE_FIELD, line("a")), purpose())
        url = f"{served.server.url}/v1/files"
        check_away(httpx2.post(url, content=content, headers=MULTIPART, timeout=TIMEOUT_S))
        assert served.get("/health").status_code == 200
    assert served.get("/ready").status_code == 200
    served.end(batch.id)
    assert served.batch(batch.id)["status"] == "completed"


def test_files_are_validated_again_afterwards(served: Served, postgres: PostgresServer) -> None:
    with away(postgres):
        check_away(served.get("/v1/batches"))
    batch = create(served, line("a"))
    served.await_status(batch["id"], "in_progress")


def test_an_upload_that_it_breaks_leaves_nothing(served: Served, postgres: PostgresServer) -> None:
    before = served.get("/v1/files").json()
    content = form((FILE_FIELD, b"x" * (2 * PART_BYTES)), purpose())
    half = len(content) * 3 // 4

    def pieces() -> Iterator[bytes]:
        yield content[:half]
        postgres.stop()
        yield content[half:]

    url = f"{served.server.url}/v1/files"
    try:
        check_away(httpx2.post(url, content=pieces(), headers=MULTIPART, timeout=TIMEOUT_S))
    finally:
        postgres.start()
    assert served.get("/v1/files").json() == before


def test_who_watches_hears_the_rest(served: Served, postgres: PostgresServer) -> None:
    batch = submit(served.database, 8)
    with events(f"{served.server.url}/v1/batches/{batch.id}/events") as told:
        assert next(told)["data"]["status"] == "in_progress"
        with away(postgres):
            check_away(served.get(f"/v1/batches/{batch.id}"))
        served.end(batch.id)
        *_, last = told
    assert last["data"]["status"] == "completed"


def test_a_key_that_cannot_be_looked_up_is_not_refused(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    with (
        upgrade(postgres.create_database()) as database,
        serving(database, host=EVERYWHERE, home=tmp_path) as url,
    ):
        _, token = create_key(database, NewKey(name="test"))
        with client(url, token) as session:
            with away(postgres):
                check_away(session.get("/v1/files"))
            assert session.get("/v1/files").status_code == 200
