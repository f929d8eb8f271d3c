"""With the database's disk full, callers are told so, and nothing half-stored can be seen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from models.database import Database, upgrade
from models.store.batches import finalize_batch
from models.store.files import PART_BYTES
from models.store.views import ServedModel
from models.store.workers import register_model
from models.tables import file_parts
from tests.api.running import error_of
from tests.api.serving import client, serving
from tests.api.test_hostile_lines import line
from tests.api.test_uploads import FILE_FIELD, form, purpose
from tests.full_store import FullStore
from tests.servers import wait_until
from tests.store.builders import CHAT, MODEL, claim, commit, count, submit

FULL = (507, "storage_full", None)
WINDOW = {"endpoint": CHAT, "completion_window": "24h"}
LONG = "x" * 500


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with upgrade(f"sqlite:///{tmp_path / 'nightshift.db'}") as opened:
        model = ServedModel(key=MODEL, artifact="a" * 64, architecture="llama", context_tokens=512)
        register_model(opened, model)
        yield opened


@pytest.fixture
def session(database: Database, tmp_path: Path) -> Iterator[httpx2.Client]:
    with serving(database, home=tmp_path) as url, client(url, None) as opened:
        yield opened


@pytest.fixture
def full(database: Database) -> FullStore:
    return FullStore(database)


def upload(session: httpx2.Client, content: bytes) -> httpx2.Response:
    files = {"file": ("in.jsonl", content)}
    return session.post("/v1/files", files=files, data={"purpose": "batch"}, timeout=60)


def check_full(answer: httpx2.Response) -> None:
    assert error_of(answer) == FULL
    assert "free some space" in answer.json()["error"]["message"]


def test_an_upload_is_refused_and_can_be_sent_again(
    session: httpx2.Client, full: FullStore
) -> None:
    content = b"\n".join([line("a", "y" * PART_BYTES), line("b")])
    full.is_full = True
    check_full(upload(session, content))
    assert session.get("/v1/files").json()["data"] == []
    full.is_full = False
    file = upload(session, content)
    assert file.status_code == 200
    listed = session.get("/v1/files").json()["data"]
    assert [each["id"] for each in listed] == [file.json()["id"]]
    assert session.get(f"/v1/files/{file.json()['id']}/content").content == content


def test_a_disk_that_fills_up_during_an_upload_leaves_nothing_to_see(
    database: Database, session: httpx2.Client, full: FullStore
) -> None:
    body = form((FILE_FIELD, b"y" * (4 * PART_BYTES)), purpose())

    def pieces() -> Iterator[bytes]:
        yield body[: 3 * PART_BYTES]
        wait_until(lambda: count(database, file_parts) > 0, "a part is stored")
        full.is_full = True
        yield body[3 * PART_BYTES :]

    multipart = {"content-type": "multipart/form-data; boundary=b"}
    check_full(session.post("/v1/files", content=pieces(), headers=multipart, timeout=60))
    assert session.get("/v1/files").json()["data"] == []
    assert count(database, file_parts) == 0


def test_with_little_space_left_new_work_is_refused_and_the_rest_goes_on(
    database: Database, tmp_path: Path
) -> None:
    batch = submit(database, 8)
    lease = claim(database)
    commit(database, lease, range(8), code="worker_lost")
    finalize_batch(database, batch.id)
    with (
        serving(database, home=tmp_path, min_free_disk_bytes=2**60) as url,
        client(url, None) as session,
    ):
        inline = {**WINDOW, "requests": [json.loads(line("a"))]}
        for answer in (
            upload(session, line("a")),
            session.post("/v1/batches", json={**WINDOW, "input_file_id": batch.file_id}),
            session.post("/v1/batches", json=inline),
            session.post(f"/v1/batches/{batch.id}/retry", json={}),
        ):
            assert error_of(answer) == FULL
            assert "NIGHTSHIFT_MIN_FREE_DISK_BYTES" in answer.json()["error"]["message"]
        assert session.get("/v1/files").status_code == 200
        (listed,) = session.get("/v1/batches").json()["data"]
        assert listed["id"] == batch.id


@pytest.mark.parametrize("given", ["file", "requests"])
def test_a_batch_is_refused_and_can_be_created_again(
    session: httpx2.Client, full: FullStore, given: str
) -> None:
    body = {**WINDOW, "metadata": {f"key{n}": LONG for n in range(16)}}
    if given == "file":
        body["input_file_id"] = upload(session, line("a")).json()["id"]
    else:
        body["requests"] = [json.loads(line(f"r{n}", LONG)) for n in range(50)]
    files = session.get("/v1/files").json()
    full.is_full = True
    check_full(session.post("/v1/batches", json=body, timeout=60))
    assert session.get("/v1/batches").json()["data"] == []
    assert session.get("/v1/files").json() == files
    full.is_full = False
    created = session.post("/v1/batches", json=body, timeout=60)
    assert created.status_code == 200
    (listed,) = session.get("/v1/batches").json()["data"]
    assert listed["id"] == created.json()["id"]
