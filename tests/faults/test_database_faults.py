"""The database is away, cut off, locked or full: nobody is charged, nothing is written twice."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from models.database import upgrade
from models.store.batches import get_batch
from tests.celery.cluster import PROJECT, cluster, wait_for
from tests.faults.batches import plain, submit
from tests.faults.checker import redone, violations
from tests.faults.fake_engine import Script, write_script
from tests.faults.rig import QUICK_SETTINGS, Rig
from tests.faults.watching import check, crashes, held_by, is_over, wait_share

SLOW = Script(step_s=0.01)
MICRO_BATCH_REQUESTS = 32
# Divides the limit: equal answers of a chunk end at once, and others could pass it by a part.
CHUNK_REQUESTS = 16
BETWEEN_CUTS_S = 0.4
MOST_CUTS = 24  # a worker that never hears of a claim gets nowhere, which is no fault of its own
LEASE_TTL_S = float(QUICK_SETTINGS["LEASE_TTL_S"])
LONG_LEASE_S = "20"  # much longer than a start of PostgreSQL, also on a machine that is busy


def n_redone(faults: Rig, batch_id: str) -> int:
    return redone([node.worker for node in faults.nodes], batch_id)


def undisturbed(faults: Rig, batch_id: str) -> None:
    """Nothing was generated twice and no crash was charged."""
    check(faults, batch_id)
    assert n_redone(faults, batch_id) == 0
    assert crashes(faults, batch_id) == 0


@pytest.mark.matrix
def test_a_database_that_crashes_and_restarts_costs_nothing(faults: Rig) -> None:
    for node in [faults.start_worker(script=SLOW, LEASE_TTL_S=LONG_LEASE_S) for _ in range(2)]:
        node.worker.wait_ready()
    batch_id = submit(faults.database, plain(1500), max_tokens=16)
    for share in (0.1, 0.3, 0.5):
        wait_share(faults, batch_id, share)
        faults.postgres.crash()
        faults.postgres.start()
    undisturbed(faults, batch_id)


@pytest.mark.parametrize(
    ("before", "n_requests"),
    [
        (rb"INSERT INTO results", 300),
        pytest.param(rb"INSERT INTO attempts", 1500, marks=pytest.mark.matrix),
        pytest.param(rb"UPDATE chunks", 3000, marks=pytest.mark.matrix),
    ],
    ids=["results", "claims", "all"],
)
def test_lost_answers_to_commit_are_no_lost_work(
    faults: Rig, before: bytes, n_requests: int
) -> None:
    nodes = faults.start_workers(2, script=SLOW)
    batch_id = submit(faults.database, plain(n_requests), max_tokens=16)
    for turn in range(MOST_CUTS):
        if is_over(faults, batch_id):
            break
        nodes[turn % 2].database.cut_after(before, rb"COMMIT")
        faults.wait(BETWEEN_CUTS_S)
    undisturbed(faults, batch_id)
    assert sum(node.database.cuts for node in nodes) >= 3


@pytest.mark.matrix
def test_a_worker_cut_off_from_the_database_fences_itself(faults: Rig) -> None:
    lonely, other = faults.start_workers(2, script=SLOW)
    batch_id = submit(faults.database, plain(600), max_tokens=16)
    wait_share(faults, batch_id, 0.1)
    wait_for(lambda: bool(held_by(faults, lonely)), "the worker holds a chunk")
    lonely.database.blackhole()
    wait_for(lambda: not held_by(faults, lonely), "its chunks are taken over", timeout_s=60)
    check(faults, batch_id)
    lonely.database.pass_on()
    wait_for(lambda: bool(lonely.worker.said("chunk lost")), "the worker sees that it is fenced")
    assert lonely.is_running
    assert other.is_running
    assert n_redone(faults, batch_id) <= 2 * MICRO_BATCH_REQUESTS


@pytest.mark.matrix
def test_a_worker_cut_off_within_a_transaction_keeps_no_rows_locked(faults: Rig) -> None:
    lonely, _ = faults.start_workers(2, script=SLOW)
    batch_id = submit(faults.database, plain(600), max_tokens=16)
    wait_share(faults, batch_id, 0.1)
    lonely.database.blackhole_after(rb"UPDATE batches")  # a commit holds chunk and batch by then
    wait_for(lambda: lonely.database.cuts == 1, "the worker is cut off")
    held = set(held_by(faults, lonely))
    assert held
    wait_for(
        lambda: not held & set(held_by(faults, lonely)),
        "its chunks are taken over",
        timeout_s=3 * LEASE_TTL_S,
    )
    check(faults, batch_id)


@pytest.mark.matrix
def test_a_database_away_for_longer_than_a_lease_is_waited_for(faults: Rig) -> None:
    nodes = faults.start_workers(2, script=SLOW)
    batch_id = submit(faults.database, plain(600), max_tokens=16, chunk_requests=CHUNK_REQUESTS)
    wait_share(faults, batch_id, 0.2)
    faults.postgres.stop()
    faults.wait(2 * LEASE_TTL_S)
    faults.postgres.start()
    check(faults, batch_id)
    assert all(node.is_running for node in nodes)
    assert n_redone(faults, batch_id) <= 2 * MICRO_BATCH_REQUESTS


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("lease_s", "share"), [(LONG_LEASE_S, 0.5), (QUICK_SETTINGS["LEASE_TTL_S"], 2.0)]
)
def test_a_locked_table_is_waited_for(faults: Rig, lease_s: str, share: float) -> None:
    faults.start_worker(script=SLOW, LEASE_TTL_S=lease_s).worker.wait_ready()
    batch_id = submit(faults.database, plain(600), max_tokens=16, chunk_requests=CHUNK_REQUESTS)
    wait_share(faults, batch_id, 0.1)
    with psycopg.connect(faults.database.url) as session:
        session.execute("LOCK TABLE results")
        faults.wait(float(lease_s) * share)
    if share < 1:
        undisturbed(faults, batch_id)
    check(faults, batch_id)
    assert n_redone(faults, batch_id) <= MICRO_BATCH_REQUESTS


@pytest.mark.matrix
def test_four_workers_share_one_sqlite_file(tmp_path: Path) -> None:
    script = write_script(tmp_path / "script", SLOW)
    environment = {f"NIGHTSHIFT_{name}": value for name, value in QUICK_SETTINGS.items()}
    environment["NIGHTSHIFT_HOME"] = str(tmp_path)
    file = tmp_path / "nightshift.db"
    command = ["tests.faults.worker_program", "--artifact", str(script)]
    with upgrade(f"sqlite:///{file}") as database, cluster(tmp_path, environment) as nodes:
        batch_id = submit(database, plain(600), max_tokens=16)
        workers = [nodes.start(*command) for _ in range(4)]
        for worker in workers:
            worker.wait_ready()
        wait_for(lambda: get_batch(database, batch_id).completed > 60, "the batch runs")
        hold_write_lock(file, seconds=2 * LEASE_TTL_S)
        wait_for(lambda: get_batch(database, batch_id).is_terminal, "the batch ends")
        assert violations(database, batch_id, workers=workers) == []
        for worker in workers:
            assert worker.stop(signal.SIGTERM) == 0
            assert not worker.said("unexpected")
            assert "database is locked" not in worker.log.read_text()
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def hold_write_lock(file: Path, *, seconds: float) -> None:
    """Another program that writes for so long."""
    program = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], timeout=60); "
        "c.isolation_level = None; c.execute('BEGIN EXCLUSIVE'); time.sleep(float(sys.argv[2])); "
        "c.execute('COMMIT')"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(file), str(seconds)], check=True, cwd=PROJECT
    )
