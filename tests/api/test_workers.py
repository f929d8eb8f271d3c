"""`/v1/workers`: who is there, how fast, with what in hand, and nothing of another tenant."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from sqlalchemy import update

from models.database import Database
from models.store.views import Worker
from models.store.worker_figures import SHOWN_FOR_S, SPEED_OVER_S, worker_figures
from models.store.workers import LIVE_FOR_S, beat, leave, register_worker
from models.tables import commits, workers
from tests.api.serving import serving
from tests.store.builders import MODEL, claim, finish, submit


def join(database: Database, name: str, **more: Any) -> None:
    register_worker(database, Worker(id=name, model=MODEL, host="node-1", pid=1, **more))


def age_beat(database: Database, name: str, seconds: float) -> None:
    with database.begin() as connection:
        of_worker = update(workers).where(workers.c.id == name)
        connection.execute(of_worker.values(beat_at=workers.c.beat_at - seconds))


def listed(database: Database) -> list[dict[str, Any]]:
    with serving(database) as url:
        answer = httpx2.get(f"{url}/v1/workers")
    assert answer.status_code == 200
    page = answer.json()
    ids = [worker["id"] for worker in page["data"]]
    first, last = (ids[0], ids[-1]) if ids else (None, None)
    assert page == {
        "object": "list",
        "data": page["data"],
        "first_id": first,
        "last_id": last,
        "has_more": False,
    }
    found: list[dict[str, Any]] = page["data"]
    return found


def test_a_worker_is_shown_with_its_figures(database: Database) -> None:
    join(
        database,
        "w1",
        backend="native",
        artifact="sha",
        threads=4,
        load_s=2.5,
        versions={"torch": "2.13.0"},
        rss_bytes=10,
        peak_rss_bytes=20,
    )
    (worker,) = listed(database)
    assert worker.pop("started_at") > 1.7e9
    assert worker.pop("beat_at") > 1.7e9
    assert worker == {
        "id": "w1",
        "object": "worker",
        "model": "demo:int8",
        "host": "node-1",
        "backend": "native",
        "artifact": "sha",
        "threads": 4,
        "load_s": 2.5,
        "rss_bytes": 10,
        "peak_rss_bytes": 20,
        "live": True,
        "draining": False,
        "versions": {"torch": "2.13.0"},
        "tokens_per_second": {"prompt": 0.0, "output": 0.0},
        "leased_chunks": 0,
        "batch_ids": [],
    }


def test_no_worker_is_an_empty_list(database: Database) -> None:
    assert listed(database) == []


def test_draining_and_silent_workers_are_shown_and_those_that_left_are_not(
    database: Database,
) -> None:
    for name in ("live", "draining", "silent", "forgotten", "gone"):
        join(database, name)
    beat(database, "draining", draining=True)
    age_beat(database, "silent", LIVE_FOR_S + 1)
    age_beat(database, "forgotten", SHOWN_FOR_S + 1)
    leave(database, "gone")
    found = {worker["id"]: (worker["live"], worker["draining"]) for worker in listed(database)}
    assert found == {"live": (True, False), "draining": (False, True), "silent": (False, False)}


def test_batches_of_other_tenants_are_counted_and_not_named(database: Database) -> None:
    join(database, "w1")
    mine = submit(database, 8)
    theirs = submit(database, 16, tenant_id="other")
    leases = [claim(database, "w1") for _ in range(3)]
    assert {lease.batch_id for lease in leases} == {mine.id, theirs.id}
    (worker,) = listed(database)
    assert (worker["leased_chunks"], worker["batch_ids"]) == (3, [mine.id])
    (other,) = worker_figures(database, "other")
    assert other.batch_ids == (theirs.id,)
    (nobody,) = worker_figures(database)
    assert (nobody.leased_chunks, nobody.batch_ids) == (3, ())


def test_a_lease_that_ran_out_is_not_held(database: Database) -> None:
    join(database, "w1")
    submit(database, 8)
    claim(database, "w1", ttl_s=-1.0)
    (worker,) = listed(database)
    assert (worker["leased_chunks"], worker["batch_ids"]) == (0, [])


def test_speed_is_of_the_last_minutes_of_each_worker(database: Database) -> None:
    join(database, "w1")
    join(database, "w2")
    submit(database, 16)
    for name in ("w1", "w2"):
        finish(database, claim(database, name))  # 8 requests: 24 prompt and 16 output tokens
    with database.begin() as connection:
        connection.execute(update(workers).values(started_at=workers.c.started_at - 3600))
        old = update(commits).where(commits.c.worker_id == "w2")
        connection.execute(old.values(committed_at=commits.c.committed_at - SPEED_OVER_S - 1))
    speeds = {worker["id"]: worker["tokens_per_second"] for worker in listed(database)}
    assert speeds["w1"] == pytest.approx({"prompt": 24 / 300, "output": 16 / 300})
    assert speeds["w2"] == {"prompt": 0.0, "output": 0.0}


def test_speed_of_a_young_worker_is_over_its_life(database: Database) -> None:
    join(database, "w1")
    submit(database, 8)
    finish(database, claim(database, "w1"))
    with database.begin() as connection:
        connection.execute(update(workers).values(started_at=workers.c.started_at - 60))
    (worker,) = listed(database)
    assert 16 / 90 < worker["tokens_per_second"]["output"] <= 16 / 60
