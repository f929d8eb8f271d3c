"""A worker process from its start to its end, over a real Redis, PostgreSQL and engine."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
from kombu.connection import Connection
from sqlalchemy import text

from models.database import Database
from models.settings import load_settings
from models.states import BatchState, ChunkState, ResultStatus
from models.store.batches import get_batch, list_chunks
from models.store.results import stream_records
from models.store.views import Ring
from models.store.workers import live_workers
from tests.celery.cluster import MODEL, Cluster, WorkerProcess, submit, wait_for, wait_for_end
from tests.servers import PostgresServer, RedisServer
from worker.celery_app import create_app
from worker.celery_config import CHUNK_TASK
from worker.dispatcher import Dispatcher
from worker.doorbell import CeleryDoorbell

DRAIN_LIMIT_S = 30
FEATURES_OFF = ("--without-gossip", "--without-mingle", "--without-heartbeat")
DOCUMENTED_OPTIONS = ("--pool", "threads", "-c", "1", *FEATURES_OFF)


def ring_all(database: Database, redis_server: RedisServer) -> None:
    """What `nightshift submit` does after the batch is stored."""
    settings = load_settings({}, broker_url=redis_server.url)
    bell = CeleryDoorbell(create_app(settings))
    Dispatcher(database=database, doorbell=bell, settings=settings).dispatch()


def wait_half_way(database: Database, batch_id: str) -> None:
    def is_half_way() -> bool:
        batch = get_batch(database, batch_id)
        assert not batch.is_terminal, "the batch was too quick to be disturbed"
        return batch.completed >= batch.total // 4

    wait_for(is_half_way, "a quarter of the batch is done")


def count_rows(database: Database, batch_id: str) -> tuple[int, int]:
    """Result rows and distinct requests among them."""
    query = text("SELECT count(*), count(DISTINCT idx) FROM results WHERE batch_id = :id")
    with database.read() as connection:
        rows, distinct = connection.execute(query, {"id": batch_id}).one()
    return rows, distinct


def engine_of(worker: WorkerProcess) -> psutil.Process:
    (engine,) = psutil.Process(worker.process.pid).children()
    return engine


def test_a_worker_hears_the_bell_and_drains_when_idle(
    nodes: Cluster, database: Database, redis_server: RedisServer
) -> None:
    worker = nodes.start_worker(sweep_period_s="600", lease_ttl_s="60")
    worker.wait_ready()
    worker.process.send_signal(signal.SIGSTOP)  # it could look by itself before anybody rings
    batch_id = submit(database, 60, max_tokens=4, chunk_requests=20)
    ring_all(database, redis_server)
    worker.process.send_signal(signal.SIGCONT)
    wait_for(lambda: bool(worker.said("ring heard")), "the ring is heard")
    assert wait_for_end(database, batch_id).completed == 60
    assert [record["model"] for record in worker.said("worker ready")] == [str(MODEL)]
    assert len(live_workers(database, MODEL)) == 1
    engine = engine_of(worker)
    assert worker.stop(signal.SIGINT, timeout_s=DRAIN_LIMIT_S) == 0
    assert not engine.is_running()
    assert live_workers(database, MODEL) == []


def test_plain_celery_starts_a_worker_and_a_second_signal_ends_it_at_once(
    nodes: Cluster, database: Database, redis_server: RedisServer
) -> None:
    worker = nodes.start_plain_celery("-Q", MODEL.queue, *DOCUMENTED_OPTIONS)
    worker.wait_ready()
    batch_id = submit(database, 20, max_tokens=4, chunk_requests=20)
    ring_all(database, redis_server)
    assert wait_for_end(database, batch_id).completed == 20
    submit(database, 200, max_tokens=100, chunk_requests=20)
    wait_for(lambda: len(worker.said("request finished")) > 20, "the worker generates")
    engine = engine_of(worker)
    worker.process.send_signal(signal.SIGSTOP)  # so that both signals are there at once
    worker.process.send_signal(signal.SIGTERM)
    worker.process.send_signal(signal.SIGINT)
    assert worker.stop(signal.SIGCONT) == 1
    wait_for(lambda: not engine.is_running(), "the engine has ended")


def test_sigterm_gives_back_what_runs_and_keeps_what_finished(
    nodes: Cluster, database: Database
) -> None:
    batch_id = submit(database, 200, max_tokens=100, chunk_requests=20)
    worker = nodes.start_worker()
    worker.wait_ready()
    wait_half_way(database, batch_id)
    assert worker.stop(signal.SIGTERM, timeout_s=DRAIN_LIMIT_S) == 0
    batch = get_batch(database, batch_id)
    assert batch.state is BatchState.IN_PROGRESS
    assert batch.completed == len(worker.said("request finished"))
    for chunk in list_chunks(database, batch_id):
        assert chunk.state in {ChunkState.PENDING, ChunkState.DISPATCHED, ChunkState.DONE}
        assert chunk.crashes == 0
        assert chunk.attempts == (chunk.state is ChunkState.DONE)


def test_a_killed_engine_is_replaced_and_the_batch_completes(
    nodes: Cluster, database: Database
) -> None:
    batch_id = submit(database, 200, max_tokens=50, chunk_requests=20)
    worker = nodes.start_worker()
    worker.wait_ready()
    wait_half_way(database, batch_id)
    engine_of(worker).kill()
    assert wait_for_end(database, batch_id).completed == 200
    assert worker.said("the engine failed")
    assert count_rows(database, batch_id) == (200, 200)


def test_a_worker_killed_on_a_chunk_s_last_chance_costs_the_request_that_ran(
    nodes: Cluster, database: Database
) -> None:
    batch_id = submit(database, 12, max_tokens=200, chunk_requests=12)
    with database.begin() as connection:
        connection.execute(text("UPDATE chunks SET attempts = 2, crashes = 2"))
    worker = nodes.start_worker()
    worker.wait_ready()
    running_idx = stop_while_one_runs(database, worker)
    worker.process.kill()
    nodes.start_worker()
    batch = wait_for_end(database, batch_id)
    assert (batch.completed, batch.failed) == (11, 1)
    (failure,) = stream_records(database, batch_id, status=ResultStatus.ERROR)
    assert failure.idx == running_idx
    assert failure.refusal is not None
    assert failure.refusal.code == "worker_lost"


def stop_while_one_runs(database: Database, worker: WorkerProcess) -> int:
    """Freeze the worker at a moment when a noted request has no result, and tell which."""
    query = text(
        "SELECT running_idx FROM chunks WHERE running_idx IS NOT NULL"
        " AND running_idx NOT IN (SELECT idx FROM results)"
        " FOR UPDATE SKIP LOCKED"  # not while a commit of the worker is on its way
    )
    found: list[int] = []

    def is_stopped() -> bool:
        worker.process.send_signal(signal.SIGSTOP)
        with database.read() as connection:
            found.extend(connection.execute(query).scalars())
        if not found:
            worker.process.send_signal(signal.SIGCONT)
        return bool(found)

    wait_for(is_stopped, "a request runs alone")
    return found[0]


def test_messages_that_make_no_sense_are_dropped(
    nodes: Cluster, database: Database, redis_server: RedisServer
) -> None:
    app = create_app(load_settings({}, broker_url=redis_server.url), model=MODEL)
    good = {"v": 1, "chunk": 123456, "batch": "batch_0", "n": 1}
    bodies: list[object] = ["text", {}, {**good, "v": 2}, {**good, "chunk": "1"}, [good], None]
    bodies.append({**good, "chunk": 2**63})  # more than the database can hold
    for body in bodies:
        app.send_task(CHUNK_TASK, args=(body,))
    app.send_task(CHUNK_TASK, kwargs=good)
    app.send_task(CHUNK_TASK, args=(good,))  # well formed, but there is no such chunk
    app.send_task("somebody.elses.task", args=(good,))
    with Connection(redis_server.url) as connection:  # type: ignore[no-untyped-call]
        queue = connection.SimpleQueue(MODEL.queue)
        queue.put("not a task at all", serializer="json")
        queue.put("pickled", serializer="pickle")
        queue.close()
    worker = nodes.start_plain_celery()  # without options: the configuration has them all
    worker.wait_ready()
    bell = CeleryDoorbell(app)
    wait_for(lambda: bell.waiting(MODEL) == 0, "all messages are taken")
    batch_id = submit(database, 20, max_tokens=4, chunk_requests=20)
    ring_all(database, redis_server)
    assert wait_for_end(database, batch_id).completed == 20
    dropped = worker.said("a message was dropped: not a chunk")
    assert [record["malformed"] for record in dropped][-1] == 8
    assert worker.stop(signal.SIGTERM, timeout_s=DRAIN_LIMIT_S) == 0


def test_servers_may_come_and_go(
    nodes: Cluster, database: Database, redis_server: RedisServer, postgres_server: PostgresServer
) -> None:
    batch_id = submit(database, 200, max_tokens=50, chunk_requests=20)
    worker = nodes.start_worker(lease_ttl_s="60")
    worker.wait_ready()
    wait_half_way(database, batch_id)
    redis_server.stop()
    try:
        postgres_server.stop()
        postgres_server.start()
        assert wait_for_end(database, batch_id).completed == 200
    finally:
        redis_server.start()
    assert len(worker.said("request finished")) == 200
    assert {chunk.epoch for chunk in list_chunks(database, batch_id)} == {1}
    heard = len(worker.said("ring heard"))
    bell = CeleryDoorbell(create_app(load_settings({}, broker_url=redis_server.url)))
    bell.ring(Ring(chunk_id=10**9, batch_id=batch_id, model=MODEL, n=1))
    wait_for(lambda: len(worker.said("ring heard")) > heard, "the worker hears the bell again")
    redis_server.stop()
    try:
        assert worker.stop(signal.SIGTERM, timeout_s=DRAIN_LIMIT_S) == 0
    finally:
        redis_server.start()


@pytest.mark.parametrize(
    ("variables", "code", "sentence"),
    [
        ({"broker_url": "redis://127.0.0.1:1/0"}, 4, "start Redis"),
        ({"database_url": "postgresql://nobody@127.0.0.1:1/x"}, 4, "database"),
        ({"lease_ttl_s": "soon"}, 2, "NIGHTSHIFT_LEASE_TTL_S"),
    ],
    ids=["no broker", "no database", "no number"],
)
def test_a_worker_that_cannot_start_says_why_in_a_sentence(
    nodes: Cluster, variables: dict[str, str], code: int, sentence: str
) -> None:
    worker = nodes.start_worker(log_level="info", **variables)
    assert worker.process.wait(60) == code
    said = worker.log.read_text()
    assert sentence in said
    assert "Traceback" not in said


def test_plain_celery_without_its_model_says_what_to_set(nodes: Cluster) -> None:
    worker = nodes.start("celery", "-A", "worker.celery_app", "worker")
    assert worker.process.wait(60) == 2
    said = worker.log.read_text()
    assert "NIGHTSHIFT_MODEL" in said
    assert "Traceback" not in said


def test_a_damaged_model_ends_the_worker_and_charges_nobody(
    nodes: Cluster, database: Database, registry_home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "registry" / MODEL.name / MODEL.weights
    folder.mkdir(parents=True)
    for file in (registry_home / "registry" / MODEL.name / MODEL.weights).iterdir():
        content = file.read_bytes()
        (folder / file.name).write_bytes(
            content[: len(content) // 2] if file.suffix == ".safetensors" else content
        )
    batch_id = submit(database, 20, max_tokens=4, chunk_requests=20)
    worker = nodes.start_plain_celery(home=str(tmp_path))
    assert worker.process.wait(60) == 5
    assert worker.said("the worker leaves service")
    for chunk in list_chunks(database, batch_id):
        assert (chunk.attempts, chunk.crashes) == (0, 0)
