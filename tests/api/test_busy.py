"""A database that lets everybody wait is no reason to restart the API."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import httpx2

from models.database import Database, upgrade
from tests.api.serving import serving
from tests.servers import wait_until
from tests.store.builders import submit

N_THREADS = 40  # of the framework, for everything that may wait
N_CALLS = 60


def all_threads_work() -> bool:
    names = [thread.name for thread in threading.enumerate()]
    return sum(name.startswith("AnyIO worker") for name in names) >= N_THREADS


async def health_beside_waiting_calls(url: str, database: Database) -> int:
    """The answer to `/health` while every thread waits for a writer to end."""
    path = f"/v1/batches/{submit(database, 8).id}/pause"
    limits = httpx2.Limits(max_connections=N_CALLS + 1)
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
        with database.begin():
            waiting = [asyncio.create_task(client.post(path)) for _ in range(N_CALLS)]
            await asyncio.to_thread(wait_until, all_threads_work, "all threads wait")
            health = await client.get("/health", timeout=10)
            assert not any(call.done() for call in waiting)
        await asyncio.gather(*waiting)
    return health.status_code


def test_health_is_told_while_every_thread_waits_for_the_database(tmp_path: Path) -> None:
    with (
        upgrade(f"sqlite:///{tmp_path / 'nightshift.db'}") as database,
        serving(database, home=tmp_path) as url,
    ):
        assert asyncio.run(health_beside_waiting_calls(url, database)) == 200
