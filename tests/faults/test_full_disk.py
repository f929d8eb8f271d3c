"""PostgreSQL on a full disk: work waits for space, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from models.errors import StorageFull
from models.store.batches import get_batch
from tests.celery.cluster import wait_for
from tests.faults.batches import plain, submit
from tests.faults.fake_engine import Script
from tests.faults.rig import rig
from tests.faults.watching import charged, check
from tests.servers import PostgresServer, RedisServer, ServerError, started

SLOW = Script(step_s=0.01)
DISK_BYTES = 192 * 1024**2
LEFT_BYTES = 2 * 1024**2


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of its own, of that size; everybody may look into it."""
    folder = Path(tempfile.mkdtemp(prefix="nightshift-disk-"))
    if os.geteuid() != 0:
        raise ServerError("this test mounts a small file system: run `make test-faults` as root")
    size = f"size={DISK_BYTES},mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def fill(folder: Path) -> Path:
    """Take all the space but a little; returns the file that holds it."""
    file = folder / "ballast"
    free = shutil.disk_usage(folder).free - LEFT_BYTES
    with file.open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, free)
    return file


def begin_a_log_file(server: PostgresServer) -> None:
    """For want of space for the next file of its log PostgreSQL would end, which is its own way."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as session:
        session.execute("SELECT pg_switch_wal()")
        session.execute("CHECKPOINT")  # writes to it, and so makes it


@pytest.mark.matrix
def test_a_full_disk_of_postgresql_is_waited_for(small_disk: Path, tmp_path: Path) -> None:
    with (
        started(RedisServer()) as redis_server,
        started(PostgresServer(folder=small_disk / "postgres")) as postgres_server,
        rig(tmp_path, redis_server, postgres_server) as faults,
    ):
        node = faults.start_workers(1, script=SLOW)[0]
        batch_id = submit(faults.database, plain(2000), max_tokens=16)
        begin_a_log_file(postgres_server)
        ballast = fill(small_disk)
        with pytest.raises(StorageFull, match="free some space"):
            for _ in range(1000):
                submit(faults.database, ["x" * 100_000 for _ in range(10)])
        wait_for(lambda: bool(node.worker.said("the database took nothing")), "the worker waits")
        before = get_batch(faults.database, batch_id).completed
        ballast.unlink()
        check(faults, batch_id)
        assert before < 2000
        assert charged(faults, batch_id) == 0
        assert node.is_running
