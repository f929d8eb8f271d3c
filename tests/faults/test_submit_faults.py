"""Submitting twice at once, or only half: one batch or none."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from sqlalchemy import func, select

from models.tables import batches, chunks, files, requests
from tests.celery.cluster import PROJECT, wait_for
from tests.faults.batches import plain, submit
from tests.faults.failpoints import POINTS, Failpoint, Step
from tests.faults.rig import Rig
from tests.faults.watching import check

N_CALLERS = 20


def n_rows(faults: Rig) -> list[int]:
    """Rows of everything that submitting writes."""
    counts = [
        select(func.count()).select_from(table) for table in (files, batches, chunks, requests)
    ]
    with faults.database.read() as connection:
        return [connection.execute(count).scalar_one() for count in counts]


def test_the_same_submission_twenty_times_at_once_is_one_batch(faults: Rig) -> None:
    def call(_: int) -> str:
        return submit(faults.database, plain(50), idempotency_key="nightly")

    with ThreadPoolExecutor(N_CALLERS) as callers:
        ids = set(callers.map(call, range(N_CALLERS)))
    (batch_id,) = ids
    assert n_rows(faults)[1] == 1
    assert n_rows(faults)[-1] == 50
    faults.start_worker()
    check(faults, batch_id)


def test_a_submitter_that_dies_leaves_nothing(faults: Rig) -> None:
    command = ["tests.faults.submit_program", faults.database.url, "5000"]
    ended = subprocess.run(
        [sys.executable, "-m", *command, "--failpoint", "in_submit:kill"], cwd=PROJECT, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert n_rows(faults) == [0, 0, 0, 0]


def test_nothing_runs_after_a_failpoint_that_pauses(tmp_path: Path) -> None:
    passed = tmp_path / "passed"
    program = (
        "import pathlib, sys, threading; from tests.faults import failpoints as f\n"
        "def run(): f._strike(f.ACTIONS['pause']); pathlib.Path(sys.argv[1]).touch()\n"
        "thread = threading.Thread(target=run); thread.start(); thread.join()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(passed)], cwd=PROJECT) as paused:
        process = psutil.Process(paused.pid)
        wait_for(lambda: process.status() == psutil.STATUS_STOPPED, "it is paused")
        assert not passed.exists()
        process.resume()
        assert paused.wait() == 0
    assert passed.exists()


def test_a_failpoint_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError):
        Failpoint.parse("after_lunch:kill")
    with pytest.raises(ValueError, match="unpack"):
        Failpoint.parse("after_claim")
    monkeypatch.setitem(POINTS, "gone", Step(("worker.jobs.runner:no_such_function",)))
    with pytest.raises(AttributeError):
        Failpoint.parse("gone:kill").install()
