"""Waiting for a batch: by long poll and by events, without a thread or a query for each waiter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import event

from api.watchers import Watchers
from models.database import Database, upgrade
from models.store.batches import cancel_batch, finalize_batch, get_batch
from models.store.pauses import pause_batch
from tests.api.live import live_server
from tests.api.running import TIMEOUT_S, Served, error_of
from tests.cli.console import Console
from tests.store.builders import submit, work_off

N_WAITING = 60  # more than the server has threads


def end(database: Database, batch_id: str) -> None:
    work_off(database)
    finalize_batch(database, batch_id)


@contextmanager
def events(url: str, **headers: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of a stream, each as its fields, `data` read."""
    with httpx2.stream("GET", url, headers=headers, timeout=TIMEOUT_S) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield _parsed(answer.iter_lines())


def _parsed(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    fields: dict[str, Any] = {}
    for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = json.loads(value) if name == "data" else value
        elif fields:
            yield fields
            fields = {}


def test_a_long_poll_ends_with_the_batch_and_holds_no_thread(served: Served) -> None:
    batch = submit(served.database, 8)

    async def poll_many() -> list[httpx2.Response]:
        limits = httpx2.Limits(max_connections=N_WAITING + 1)
        async with httpx2.AsyncClient(
            base_url=served.server.url, timeout=TIMEOUT_S, limits=limits
        ) as client:
            path = f"/v1/batches/{batch.id}?wait=60"
            polls = [asyncio.create_task(client.get(path)) for _ in range(N_WAITING)]
            for _ in range(20):  # each needs a thread, and gives the polls time to get theirs
                assert (await client.get("/ready")).status_code == 200
            assert not any(poll.done() for poll in polls)
            await asyncio.to_thread(served.end, batch.id)
            return await asyncio.gather(*polls)

    answers = asyncio.run(poll_many())
    assert {answer.json()["status"] for answer in answers} == {"completed"}


def test_a_long_poll_gives_the_batch_as_it_stands_when_the_time_is_over(served: Served) -> None:
    batch = submit(served.database, 8)
    answer = served.get(f"/v1/batches/{batch.id}?wait=0.1")
    assert answer.json()["status"] == "in_progress"
    served.end(batch.id)
    assert served.get(f"/v1/batches/{batch.id}?wait=60").json()["status"] == "completed"


@pytest.mark.parametrize("wait", ["-1", "61", "x", "nan", "inf"])
def test_a_bad_wait_is_refused(served: Served, wait: str) -> None:
    batch = submit(served.database, 1)
    answer = served.get(f"/v1/batches/{batch.id}?wait={wait}")
    assert error_of(answer) == (400, "invalid_value", "wait")


def test_events_tell_every_change_until_the_end(served: Served) -> None:
    batch = submit(served.database, 16)
    with events(f"{served.server.url}/v1/batches/{batch.id}/events") as told:
        first = next(told)
        assert (first["event"], first["id"]) == ("batch", "0")
        assert first["data"] == served.batch(batch.id)
        served.answer_chunk(batch.id)
        second = next(told)
        assert (second["id"], second["data"]["request_counts"]["completed"]) == ("8", 8)
        pause_batch(served.database, batch.id)
        assert next(told)["data"]["nightshift"]["paused"]
        cancel_batch(served.database, batch.id)
        *_, last = told
    assert (last["id"], last["data"]["status"]) == ("16", "cancelled")
    assert last["data"] == served.batch(batch.id)


def test_an_event_before_the_end_does_not_have_the_ends_id(served: Served) -> None:
    """A client that has it is told nothing more, so it must not have missed the end."""
    batch = submit(served.database, 8)
    served.answer_chunk(batch.id)
    assert get_batch(served.database, batch.id).state == "in_progress"  # nobody has closed it yet
    url = f"{served.server.url}/v1/batches/{batch.id}/events"
    with events(url) as told:
        assert "id" not in next(told)
    finalize_batch(served.database, batch.id)
    with events(url, **{"last-event-id": "0"}) as told:
        (only,) = told
    assert (only["id"], only["data"]["status"]) == ("8", "completed")
    assert httpx2.get(url, headers={"last-event-id": only["id"]}).status_code == 204


def test_events_of_an_unknown_batch(served: Served) -> None:
    assert error_of(served.get("/v1/batches/batch_none/events")) == (404, "not_found", None)


def test_a_stream_ends_in_order_when_the_server_stops(tmp_path: Path) -> None:
    console = Console(tmp_path)
    with live_server(console) as server, upgrade(f"sqlite:///{tmp_path / 'nightshift.db'}") as base:
        batch = submit(base, 8)
        with events(f"{server.url}/v1/batches/{batch.id}/events") as told:
            assert next(told)["data"]["status"] == "in_progress"
            server.program.process.terminate()
            assert list(told) == []  # a connection that is cut would raise


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with upgrade(f"sqlite:///{tmp_path / 'nightshift.db'}") as opened:
        yield opened


def test_many_watchers_cost_one_look(database: Database) -> None:
    batch = submit(database, 8)
    statements: list[str] = []
    event.listen(
        database._engine,
        "before_cursor_execute",
        lambda *arguments: statements.append(arguments[2]),
    )

    async def watch() -> int:
        watchers = Watchers(database)
        waiting = [
            asyncio.create_task(watchers.until_ended(batch, TIMEOUT_S)) for _ in range(N_WAITING)
        ]
        await asyncio.to_thread(end, database, batch.id)
        statements.clear()
        await asyncio.gather(*waiting)
        return len(statements)

    assert asyncio.run(watch()) < N_WAITING // 2


def test_watches_end_when_the_process_stops(database: Database) -> None:
    batch = submit(database, 8)

    async def watch() -> None:
        watchers = Watchers(database)
        waiting = asyncio.create_task(watchers.until_ended(batch, TIMEOUT_S))
        await asyncio.sleep(0)
        watchers.stop()
        await asyncio.wait_for(waiting, TIMEOUT_S / 2)
        await watchers.until_ended(batch, TIMEOUT_S)  # nor does a new one stay

    asyncio.run(asyncio.wait_for(watch(), TIMEOUT_S / 2))


def test_a_look_that_fails_is_made_again(database: Database) -> None:
    batch = submit(database, 8)
    n_failed = 0

    def fail_twice(*_: object) -> None:
        nonlocal n_failed
        if n_failed < 2:
            n_failed += 1
            raise OSError("the network is away")

    async def watch() -> None:
        waiting = asyncio.create_task(Watchers(database).until_ended(batch, TIMEOUT_S))
        await waiting

    end(database, batch.id)
    event.listen(database._engine, "before_cursor_execute", fail_twice)
    asyncio.run(watch())
    assert n_failed == 2
    assert get_batch(database, batch.id).is_terminal
