"""A database that cannot grow says so, holds nothing half, and goes on once it can."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from models.database import Database, connect_database
from models.errors import StorageFull
from models.states import ChunkState
from models.store.batches import get_batch, list_batches
from models.store.commit import commit_outcomes
from models.store.leases import missing_requests, renew_lease
from models.store.views import Outcome
from tests.full_store import FullStore
from tests.store.builders import (
    TTL_S,
    check_counters,
    chunk_of,
    claim,
    finish,
    generation,
    submit,
)

ROOT = Path(__file__).resolve().parents[2]

# No file of the process may grow beyond the database's size: what a quota does.
UNDER_A_LIMIT = """
import os, resource, sys
from models.database import connect_database
from models.errors import StorageFull
from tests.store.builders import submit
path = sys.argv[1]
with connect_database(f"sqlite:///{path}") as database:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path), hard))
    try:
        submit(database, 500)
    except StorageFull as exc:
        sys.stdout.write(str(exc))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    sys.stdout.write(f"; then {submit(database, 500).total} requests")
"""


def test_a_write_that_a_limit_refuses_is_storage_full(tmp_path: Path) -> None:
    path = tmp_path / "nightshift.db"
    url = f"sqlite:///{path}"
    connect_database(url, create=True).close()
    ended = subprocess.run(
        [sys.executable, "-c", UNDER_A_LIMIT, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "free some space" in ended.stdout and "quota" in ended.stdout
    assert ended.stdout.endswith("; then 500 requests")
    with connect_database(url) as database:
        (batch,) = list_batches(database)
        assert batch.total == 500


@pytest.fixture
def sqlite(tmp_path: Path) -> Database:
    return connect_database(f"sqlite:///{tmp_path / 'nightshift.db'}", create=True)


def test_a_commit_that_does_not_fit_changes_nothing_and_the_lease_holds(sqlite: Database) -> None:
    with sqlite as database:
        full = FullStore(database)
        batch = submit(database, 8)
        lease = claim(database)
        long = [
            Outcome(idx=request.idx, generation=generation("x" * 50_000))
            for request in missing_requests(database, lease)
        ]
        full.is_full = True
        with pytest.raises(StorageFull, match="free some space"):
            commit_outcomes(database, lease, long, ttl_s=TTL_S)
        assert full.refused > 0
        assert len(missing_requests(database, lease)) == 8
        renew_lease(database, lease, TTL_S)
        chunk = chunk_of(database, lease)
        assert (chunk.state, chunk.epoch, chunk.crashes) == (ChunkState.LEASED, 1, 0)
        check_counters(database, batch.id)
        full.is_full = False
        assert commit_outcomes(database, lease, long, ttl_s=TTL_S).inserted == 8
        assert get_batch(database, batch.id).completed == 8
        check_counters(database, batch.id)


def test_a_submission_that_does_not_fit_is_not_there(sqlite: Database) -> None:
    with sqlite as database:
        full = FullStore(database)
        full.is_full = True
        with pytest.raises(StorageFull, match="free some space"):
            submit(database, 500)
        assert list_batches(database) == []
        full.is_full = False
        batch = submit(database, 8)
        finish(database, claim(database))
        assert get_batch(database, batch.id).completed == 8
