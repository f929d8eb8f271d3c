"""Several workers of one command, over a real Redis, PostgreSQL and engines."""

from __future__ import annotations

import signal
from contextlib import suppress

import psutil
import pytest
from sqlalchemy import text

from models.database import Database
from models.states import ChunkState
from models.store.batches import get_batch, list_chunks
from tests.celery.cluster import MODEL, Cluster, WorkerProcess, submit, wait_for, wait_for_end

WORKERS = 2
DRAIN_LIMIT_S = 30
INTERRUPTED = 130


def start_fleet(nodes: Cluster) -> WorkerProcess:
    """A fleet whose workers are all ready."""
    model = ("--model", MODEL.name, "--weights", MODEL.weights)
    fleet = nodes.start("cli", "worker", *model, "--instances", str(WORKERS))

    def is_ready() -> bool:
        assert fleet.process.poll() is None, fleet.log.read_text(errors="replace")[-3000:]
        return len(fleet.said("worker ready")) == WORKERS

    wait_for(is_ready, "the workers are ready")
    return fleet


def processes_of(fleet: WorkerProcess) -> list[psutil.Process]:
    """Workers and engines."""
    return psutil.Process(fleet.process.pid).children(recursive=True)


def workers_of(fleet: WorkerProcess) -> list[psutil.Process]:
    return psutil.Process(fleet.process.pid).children()


def wait_gone(processes: list[psutil.Process]) -> None:
    wait_for(
        lambda: not any(map(is_there, processes)), "all processes are gone", timeout_s=DRAIN_LIMIT_S
    )


def is_there(process: psutil.Process) -> bool:
    """Whether it runs: a zombie, whom init has not yet buried, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start_work(database: Database, fleet: WorkerProcess) -> str:
    """A batch that both workers are in the middle of."""
    batch_id = submit(database, 400, max_tokens=100, chunk_requests=20)

    def is_shared() -> bool:
        assert not get_batch(database, batch_id).is_terminal, "the batch was too quick"
        return len(fleet.said("request finished")) > 20 and workers_at_it(database) == WORKERS

    wait_for(is_shared, "both workers are at it")
    return batch_id


def workers_at_it(database: Database) -> int:
    query = text("SELECT count(DISTINCT worker_id) FROM commits WHERE worker_id IS NOT NULL")
    with database.read() as connection:
        return int(connection.execute(query).scalar_one())


def assert_handed_back(database: Database, batch_id: str) -> None:
    """No lease has to run out, and no crash is charged."""
    for chunk in list_chunks(database, batch_id):
        assert chunk.state in {ChunkState.PENDING, ChunkState.DISPATCHED, ChunkState.DONE}
        assert chunk.crashes == 0


def test_every_worker_has_cores_of_its_own_and_sigterm_drains_all(
    nodes: Cluster, database: Database
) -> None:
    fleet = start_fleet(nodes)
    first, second = (set(worker.cpu_affinity()) for worker in workers_of(fleet))
    assert first
    assert second
    assert not first & second
    for worker in workers_of(fleet):
        (engine,) = worker.children()
        assert engine.cpu_affinity() == worker.cpu_affinity()
    processes = processes_of(fleet)
    batch_id = start_work(database, fleet)
    assert fleet.stop(signal.SIGTERM, timeout_s=DRAIN_LIMIT_S) == 0
    wait_gone(processes)
    assert_handed_back(database, batch_id)


@pytest.mark.parametrize("workers_come_first", [True, False])
def test_a_signal_that_reaches_every_process_is_the_first_one(
    workers_come_first: bool, nodes: Cluster, database: Database
) -> None:
    """Service managers send one to a whole group."""
    fleet = start_fleet(nodes)
    batch_id = start_work(database, fleet)
    processes, workers = processes_of(fleet), workers_of(fleet)
    if not workers_come_first:
        fleet.process.send_signal(signal.SIGTERM)
        wait_for(lambda: bool(fleet.said("the workers drain")), "they are asked to drain")
    for worker in workers:
        with suppress(psutil.NoSuchProcess):  # it was quick
            worker.send_signal(signal.SIGTERM)
    if workers_come_first:
        fleet.process.send_signal(signal.SIGTERM)
    assert fleet.process.wait(DRAIN_LIMIT_S) == 0
    wait_gone(processes)
    assert_handed_back(database, batch_id)


def test_a_second_signal_ends_all_at_once(nodes: Cluster, database: Database) -> None:
    fleet = start_fleet(nodes)
    start_work(database, fleet)
    processes = processes_of(fleet)
    for worker in workers_of(fleet):
        worker.suspend()  # so that none drains before the second signal comes
    fleet.process.send_signal(signal.SIGTERM)
    wait_for(lambda: bool(fleet.said("the workers drain")), "the first signal was heard")
    assert fleet.stop(signal.SIGINT) == INTERRUPTED
    wait_gone(processes)


def test_a_killed_worker_is_started_again_and_the_batch_completes(
    nodes: Cluster, database: Database
) -> None:
    fleet = start_fleet(nodes)
    batch_id = start_work(database, fleet)
    killed = workers_of(fleet)[0]
    cpus = killed.cpu_affinity()
    killed.kill()
    wait_for(lambda: len(fleet.said("worker ready")) == WORKERS + 1, "another worker is ready")
    (failure,) = fleet.said("worker process failed")
    assert failure["exit_code"] == 128 + signal.SIGKILL
    assert cpus in [worker.cpu_affinity() for worker in workers_of(fleet)]
    assert wait_for_end(database, batch_id).completed == 400
    assert fleet.stop(signal.SIGTERM, timeout_s=DRAIN_LIMIT_S) == 0


def test_workers_drain_when_the_process_that_started_them_is_killed(
    nodes: Cluster, database: Database
) -> None:
    fleet = start_fleet(nodes)
    batch_id = start_work(database, fleet)
    processes = processes_of(fleet)
    fleet.process.kill()
    fleet.process.wait()
    wait_gone(processes)
    assert_handed_back(database, batch_id)


def test_a_worker_that_loses_its_program_while_it_starts_ends(nodes: Cluster) -> None:
    model = ("--model", MODEL.name, "--weights", MODEL.weights)
    fleet = nodes.start("cli", "worker", *model, "--instances", str(WORKERS))
    wait_for(lambda: len(fleet.said("worker process started")) == WORKERS, "they are started")
    processes = processes_of(fleet)
    assert len(processes) >= WORKERS
    fleet.process.kill()
    fleet.process.wait()
    wait_gone(processes)
