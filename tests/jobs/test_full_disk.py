"""The database's disk is full: finished work is kept, nothing is started, nobody is charged."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from models.states import BatchState
from tests.full_store import FullStore
from tests.jobs.conftest import CHUNK_REQUESTS, JobStore, MakeRunner, expected_texts
from tests.jobs.scripted_engine import Script

LONG = "x" * 20_000  # no answer fits into the pages that are there


@pytest.fixture
def full(store: JobStore) -> FullStore:
    return FullStore(store.database)


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
