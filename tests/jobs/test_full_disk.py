"""The database's disk is full: finished work is kept, nothing is started, nobody is charged."""

from __future__ import annotations

import shutil

import pytest
from sqlalchemy import text

from models import disk_space
from models.database import upgrade
from models.disk_space import DiskSpace
from models.errors import StorageFull
from models.states import BatchState, ChunkState
from tests.full_store import FullStore
from tests.jobs.conftest import CHUNK_REQUESTS, MODEL, JobStore, MakeRunner, expected_texts
from tests.jobs.scripted_engine import Script
from tests.servers import PostgresServer
from worker.embedded import EmbeddedWorker

LIMIT_BYTES = 1000
LONG = "x" * 20_000  # no answer fits into the pages that are there


@pytest.fixture
def full(store: JobStore) -> FullStore:
    return FullStore(store.database)


class Disk:
    """What the filesystem says about its free space, as the test sets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free_bytes = LIMIT_BYTES
        monkeypatch.setattr(disk_space, "_PERIOD_S", 0.0)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: self)

    @property
    def free(self) -> int:
        return self.free_bytes


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_before_the_disk_is_full_what_is_held_is_finished_and_nothing_claimed(
    store: JobStore,
    script: Script,
    make_runner: MakeRunner,
    disk: Disk,
    caplog: pytest.LogCaptureFixture,
) -> None:
    batch_id = store.submit(10 * CHUNK_REQUESTS)
    runner = make_runner(min_free_disk_bytes=LIMIT_BYTES)
    script.on_turn = lambda: setattr(disk, "free_bytes", LIMIT_BYTES - 1)
    runner.serve(until=lambda: False)
    done = [chunk for chunk in store.chunks(batch_id) if chunk.state is ChunkState.DONE]
    assert 0 < len(done) < 10
    assert len(store.texts(batch_id)) == len(done) * CHUNK_REQUESTS == len(script.answered)
    runner.serve(until=lambda: False)
    assert len(script.answered) == len(done) * CHUNK_REQUESTS
    assert len([r for r in caplog.records if "no chunk is claimed" in r.message]) == 1
    script.on_turn, disk.free_bytes = lambda: None, LIMIT_BYTES
    runner.serve(until=lambda: False)
    assert store.texts(batch_id) == expected_texts(10 * CHUNK_REQUESTS)
    assert {chunk.attempts for chunk in store.chunks(batch_id)} == {1}


def test_a_run_of_one_batch_ends_when_there_is_little_space(
    store: JobStore, script: Script
) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)
    settings = store.settings.model_copy(update={"min_free_disk_bytes": 2**60})
    worker = EmbeddedWorker(settings, store.database, MODEL, spawn=script.spawn)
    with pytest.raises(StorageFull, match="NIGHTSHIFT_MIN_FREE_DISK_BYTES"):
        worker.run_batch(batch_id)
    assert [chunk.attempts for chunk in store.chunks(batch_id)] == [0]
    EmbeddedWorker(store.settings, store.database, MODEL, spawn=script.spawn).run_batch(batch_id)
    assert store.texts(batch_id) == expected_texts(CHUNK_REQUESTS)


def test_the_disk_of_a_server_is_not_looked_at(postgres_server: PostgresServer, disk: Disk) -> None:
    disk.free_bytes = 0
    with upgrade(postgres_server.create_database()) as database:
        DiskSpace(database, LIMIT_BYTES).check()


def test_the_disk_is_looked_at_every_few_seconds(
    store: JobStore, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space, "_PERIOD_S", 5.0)
    now = 100.0
    space = DiskSpace(store.database, LIMIT_BYTES, clock=lambda: now)
    assert space.shortage() is None
    disk.free_bytes, now = 0, 104.9
    assert space.shortage() is None
    now = 105.0
    assert space.shortage() is not None


def padded_texts(n_requests: int) -> dict[int, str]:
    return {idx: text + LONG for idx, text in expected_texts(n_requests).items()}


def test_work_waits_for_space_and_is_not_made_again(
    store: JobStore, script: Script, make_runner: MakeRunner, full: FullStore
) -> None:
    batch_id = store.submit(10 * CHUNK_REQUESTS)
    script.padding, script.per_turn = LONG, 3
    runner = make_runner()
    claimed: list[int] = []  # epochs of all chunks together, while the disk is full
    uncommitted: list[int] = []
    in_hand: list[int] = []  # requests of the leases

    def act() -> None:
        if not full.is_full and not full.refused and len(script.answered) >= 12:
            full.is_full = True
        elif full.refused >= 4:
            full.is_full = False
        if full.refused and full.is_full:
            claimed.append(sum(chunk.epoch for chunk in store.chunks(batch_id)))
            uncommitted.append(runner.book.uncommitted)
            in_hand.append(runner.book.unfinished + runner.book.uncommitted)

    script.on_turn = act
    runner.serve(until=lambda: False)
    assert len(claimed) > 3
    assert len(set(claimed)) == len(set(in_hand)) == 1
    assert max(uncommitted) == in_hand[0]  # the engine ended what it had, and got no more
    at_most = runner._feeder.low_water + CHUNK_REQUESTS + store.settings.micro_batch_requests
    assert in_hand[0] <= at_most
    assert store.texts(batch_id) == padded_texts(10 * CHUNK_REQUESTS)
    assert store.batch(batch_id).state is BatchState.COMPLETED
    assert len(script.answered) == 10 * CHUNK_REQUESTS
    chunks = store.chunks(batch_id)
    assert {(chunk.epoch, chunk.attempts, chunk.crashes) for chunk in chunks} == {(1, 1, 0)}


def test_nothing_more_is_given_to_the_engine_while_results_cannot_be_written(
    store: JobStore, script: Script, make_runner: MakeRunner, full: FullStore
) -> None:
    """The second chunk crashed an engine once, so it waits for the first one to be out."""
    batch_id = store.submit(2 * CHUNK_REQUESTS)
    _, suspect = store.chunks(batch_id)
    with store.database.begin() as connection:
        crashed_once = text("UPDATE chunks SET attempts = 1, crashes = 1 WHERE id = :id")
        connection.execute(crashed_once, {"id": suspect.id})
    script.padding = LONG
    runner = make_runner()
    given: list[int] = []  # answers while nothing could be written

    def act() -> None:
        if not full.refused:
            full.is_full = len(runner.book) == 2
        elif full.refused >= 4:
            full.is_full = False
        if full.refused and full.is_full:
            given.append(len(script.answered))

    script.on_turn = act
    runner.serve(until=lambda: False)
    assert set(given) == {CHUNK_REQUESTS}
    assert store.texts(batch_id) == padded_texts(2 * CHUNK_REQUESTS)
    assert len(script.answered) == 2 * CHUNK_REQUESTS


def test_on_the_last_chance_a_full_disk_stops_after_one_request(
    store: JobStore, script: Script, make_runner: MakeRunner, full: FullStore
) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)
    with store.database.begin() as connection:
        connection.execute(text("UPDATE chunks SET attempts = 2, crashes = 2"))
    script.padding = LONG
    given: list[int] = []

    def act() -> None:
        full.is_full = full.refused < 3
        if full.refused and full.is_full:
            given.append(len(script.answered))

    script.on_turn = act
    make_runner(max_crashes=3).serve(until=lambda: False)
    assert set(given) == {1}
    assert store.texts(batch_id) == padded_texts(CHUNK_REQUESTS)
    assert [chunk.crashes for chunk in store.chunks(batch_id)] == [2]
