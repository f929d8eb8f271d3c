"""What a cluster promises when a node dies or Redis forgets: nothing lost, nothing twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from models.database import Database
from models.settings import load_settings
from models.states import BatchState
from models.store.batches import get_batch
from models.store.views import Ring
from tests.celery.cluster import (
    MODEL,
    Cluster,
    cluster,
    submit,
    wait_for,
    wait_for_end,
)
from tests.celery.conftest import LEASE_TTL_S, SWEEP_PERIOD_S
from tests.servers import RedisServer
from worker.celery_app import create_app
from worker.doorbell import CeleryDoorbell

N_REQUESTS = 2000
CHUNK_REQUESTS = 50
UNKNOWN_CHUNK = 10**9
MICRO_BATCH_REQUESTS = load_settings({}).micro_batch_requests


@pytest.fixture
def nodes(tmp_path: Path, node_environment: dict[str, str]) -> Iterator[Cluster]:
    """No worker yet; lost announcements are not repeated in the time that a test takes."""
    with cluster(tmp_path, node_environment) as running:
        yield running


def rows_per_request(database: Database, batch_id: str) -> Counter[int]:
    with database.read() as connection:
        query = text("SELECT idx FROM results WHERE batch_id = :id")
        return Counter(connection.execute(query, {"id": batch_id}).scalars())


def makers(database: Database, batch_id: str) -> Counter[str]:
    """Requests by the worker whose answer counted."""
    with database.read() as connection:
        query = text("SELECT worker_id FROM results WHERE batch_id = :id")
        return Counter(connection.execute(query, {"id": batch_id}).scalars())


def generated(nodes: Cluster) -> Counter[int]:
    """How often each request was generated to its end, by the workers' own logs."""
    return Counter(
        record["idx"] for worker in nodes.workers for record in worker.said("request finished")
    )


def leases_of(database: Database, worker_id: str) -> int:
    """How many chunks the worker holds, whether or not it is alive."""
    with database.read() as connection:
        query = text("SELECT count(*) FROM chunks WHERE state = 'leased' AND worker_id = :id")
        return int(connection.execute(query, {"id": worker_id}).scalar_one())


def is_done(database: Database, batch_id: str, share: float) -> bool:
    batch = get_batch(database, batch_id)
    return batch.completed >= batch.total * share


def rings_heard(nodes: Cluster) -> set[int]:
    """The chunks that messages named, whichever worker took them."""
    return {record["chunk"] for worker in nodes.workers for record in worker.said("ring heard")}


def test_a_killed_node_costs_at_most_one_micro_batch(
    nodes: Cluster, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    victim, survivor = nodes.start_worker(), nodes.start_worker()
    victim.wait_ready()
    survivor.wait_ready()
    batch_id = submit(database, N_REQUESTS, max_tokens=12, chunk_requests=CHUNK_REQUESTS)
    (victim_id,) = {record["worker"] for record in victim.said("worker ready")}
    wait_for(
        lambda: (
            get_batch(database, batch_id).completed >= N_REQUESTS // 2
            and leases_of(database, victim_id) > 0
        ),
        "half of the batch is done",
        timeout_s=120,
    )
    victim.process.kill()
    killed_at = time.monotonic()
    held = leases_of(database, victim_id)
    wait_for(lambda: leases_of(database, victim_id) == 0, "its chunks are free again")
    taken_over_s = time.monotonic() - killed_at
    batch = wait_for_end(database, batch_id)

    assert batch.state is BatchState.COMPLETED
    assert batch.completed == N_REQUESTS
    assert rows_per_request(database, batch_id) == Counter(range(N_REQUESTS))
    assert len(makers(database, batch_id)) == 2
    counts = generated(nodes)
    assert set(counts) == set(range(N_REQUESTS))
    twice = counts.total() - N_REQUESTS
    assert twice <= MICRO_BATCH_REQUESTS
    with capsys.disabled():
        print(  # noqa: T201
            f"\na killed worker's {held} chunks were free after {taken_over_s:.1f} s "
            f"(lease {LEASE_TTL_S:g} s, sweep {SWEEP_PERIOD_S:g} s); "
            f"{twice} of {N_REQUESTS} requests generated twice"
        )


def test_redis_may_forget_everything_at_any_time(
    nodes: Cluster, database: Database, redis_server: RedisServer
) -> None:
    workers = [nodes.start_worker(), nodes.start_worker()]
    for worker in workers:
        worker.wait_ready()
    batch_id = submit(database, 600, max_tokens=12, chunk_requests=CHUNK_REQUESTS)
    for share in (0.1, 0.3, 0.6):
        wait_for(partial(is_done, database, batch_id, share), f"{share:.0%} of the batch is done")
        redis_server.flushall()
    assert wait_for_end(database, batch_id).state is BatchState.COMPLETED
    assert rows_per_request(database, batch_id) == Counter(range(600))
    assert generated(nodes).total() == 600

    # And the bell is heard afterwards, without a restart.
    bell = CeleryDoorbell(create_app(load_settings({}, broker_url=redis_server.url)))
    for number in range(10):
        bell.ring(Ring(chunk_id=UNKNOWN_CHUNK + number, batch_id=batch_id, model=MODEL, n=1))
    wait_for(
        lambda: rings_heard(nodes) >= set(range(UNKNOWN_CHUNK, UNKNOWN_CHUNK + 10)),
        "ten rings are heard",
    )
