"""The database goes away: nothing is lost, nobody is charged, and no deadline is overrun."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from models.database import Database
from models.errors import DatabaseUnavailable
from models.settings import load_settings
from models.states import ChunkState
from models.store.leases import claim_next
from models.store.views import Lease
from tests.jobs.conftest import CHUNK_REQUESTS, MODEL, JobStore, MakeRunner, expected_texts
from tests.jobs.scripted_engine import Script
from tests.servers import wait_until
from worker.jobs.held import HeldLease, LeaseBook
from worker.jobs.lease_keeper import LeaseKeeper, lease_deadline
from worker.jobs.patience import Patience
from worker.service import WorkerService

OUTAGE_S = 60.0


class Outage:
    """While `is_on`, transactions of the databases under it fail as if the server were gone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_on = False
        self.refused = 0
        transact = Database.transact

        def maybe(database: Database, work: Callable[..., Any], **options: Any) -> Any:
            if self.is_on:
                self.refused += 1
                raise DatabaseUnavailable("the database cannot be reached")
            return transact(database, work, **options)

        monkeypatch.setattr(Database, "transact", maybe)


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(monkeypatch)


def test_finished_requests_wait_out_an_outage_and_are_not_made_again(
    store: JobStore, script: Script, make_runner: MakeRunner, outage: Outage
) -> None:
    batch_id = store.submit(40)
    script.per_turn = 1
    runner = make_runner()

    def act() -> None:
        if len(script.answered) == 5 and not outage.refused:
            outage.is_on = True
        if outage.refused >= 3:
            outage.is_on = False

    script.on_turn = act
    runner.serve(until=lambda: store.batch(batch_id).is_terminal)
    assert store.texts(batch_id) == expected_texts(40)
    assert len(script.answered) == 40
    assert {chunk.epoch for chunk in store.chunks(batch_id)} == {1}


def test_an_outage_longer_than_the_lease_fences_the_worker_off(
    store: JobStore, script: Script, make_runner: MakeRunner, outage: Outage
) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)
    runner = make_runner(lease_ttl_s=1.2, renew_period_s=0.2)
    script.on_turn = lambda: setattr(outage, "is_on", True)
    runner.serve(until=lambda: False)  # returns when nothing is held any more
    outage.is_on = False
    assert not runner.book
    assert store.texts(batch_id) == {}
    assert store.chunks(batch_id)[0].state is ChunkState.LEASED  # for the sweep to end


class LostReply:
    """The connection breaks right after the COMMIT of the transactions that are chosen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chosen: Callable[[str], bool] = lambda _: False
        transact = Database.transact

        def lose(database: Database, work: Callable[..., Any], **options: Any) -> Any:
            result = transact(database, work, **options)
            if self.chosen(work.__qualname__):
                self.chosen = lambda _: False
                raise DatabaseUnavailable("the connection was closed")
            return result

        monkeypatch.setattr(Database, "transact", lose)


@pytest.fixture
def lost_reply(monkeypatch: pytest.MonkeyPatch) -> LostReply:
    return LostReply(monkeypatch)


@pytest.mark.parametrize("number", [1, 2])
def test_a_claim_whose_answer_was_lost_is_given_back_and_charged_to_nobody(
    store: JobStore,
    script: Script,
    make_runner: MakeRunner,
    lost_reply: LostReply,
    number: int,
) -> None:
    """The second one is lost while the first one's lease is held, which must not be given back."""
    batch_id = store.submit(2 * CHUNK_REQUESTS)
    claims = 0

    def is_it(name: str) -> bool:
        nonlocal claims
        claims += "_claim." in name
        return claims == number

    lost_reply.chosen = is_it
    runner = make_runner(max_sequences=2 * CHUNK_REQUESTS)
    deadline = time.monotonic() + 30
    while not store.batch(batch_id).is_terminal and time.monotonic() < deadline:
        runner.serve(until=lambda: False)
    assert store.texts(batch_id) == expected_texts(2 * CHUNK_REQUESTS)
    assert len(script.answered) == 2 * CHUNK_REQUESTS
    assert [(chunk.attempts, chunk.crashes) for chunk in store.chunks(batch_id)] == [(1, 0)] * 2
    assert sorted(chunk.epoch for chunk in store.chunks(batch_id)) == [1, 2]


def test_a_commit_that_closed_a_chunk_unheard_gives_nothing_back(
    store: JobStore, script: Script, make_runner: MakeRunner, lost_reply: LostReply
) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)

    def is_last_commit(name: str) -> bool:
        return "commit_outcomes." in name and store.chunks(batch_id)[0].state is ChunkState.DONE

    lost_reply.chosen = is_last_commit
    runner = make_runner()
    runner.serve(until=lambda: store.batch(batch_id).is_terminal)
    assert store.texts(batch_id) == expected_texts(CHUNK_REQUESTS)
    assert len(script.answered) == CHUNK_REQUESTS
    assert [(chunk.epoch, chunk.crashes) for chunk in store.chunks(batch_id)] == [(1, 0)]


def test_a_worker_that_stops_gives_back_what_it_did_not_hear_of(
    store: JobStore, script: Script, lost_reply: LostReply
) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)
    service = WorkerService(store.settings, MODEL, spawn=script.spawn)
    states: list[ChunkState] = []

    def is_claim(name: str) -> bool:
        if "_claim." in name:
            states.extend(chunk.state for chunk in store.chunks(batch_id))
            service.ask_to_stop()  # as far as the worker knows it has no lease
        return "_claim." in name

    lost_reply.chosen = is_claim
    service.start()
    wait_until(lambda: service.is_stopping, "the chunk is claimed, and nobody hears of it")
    assert service.join(20)
    assert states == [ChunkState.LEASED]
    (chunk,) = store.chunks(batch_id)
    assert (chunk.state, chunk.attempts, chunk.crashes) == (ChunkState.PENDING, 0, 0)
    assert script.answered == []


def test_a_worker_back_from_a_long_outage_is_not_charged_for_it(
    store: JobStore, script: Script, make_runner: MakeRunner, outage: Outage
) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)
    runner = make_runner(lease_ttl_s=1.2, renew_period_s=0.2)
    script.on_turn = lambda: setattr(outage, "is_on", True)
    runner.serve(until=lambda: False)
    assert not runner.book
    outage.is_on, script.on_turn = False, lambda: None
    deadline = time.monotonic() + 30
    while not store.batch(batch_id).is_terminal and time.monotonic() < deadline:
        runner.serve(until=lambda: False)
    assert store.texts(batch_id) == expected_texts(CHUNK_REQUESTS)
    (chunk,) = store.chunks(batch_id)
    assert (chunk.epoch, chunk.attempts, chunk.crashes) == (2, 1, 0)


def test_leases_are_not_renewed_for_an_engine_without_signs_of_life(store: JobStore) -> None:
    store.submit(CHUNK_REQUESTS)
    lease = claim_next(store.database, MODEL, "worker-a", ttl_s=30)
    assert lease is not None
    held = held_until(lease, deadline=time.monotonic() + 1)
    book = LeaseBook()
    book.add(held)
    before = held.deadline
    with keeper(store, book, is_alive=False) as silent:
        silent.renew_all()
    assert held.deadline == before
    with keeper(store, book, is_alive=True) as lively:
        lively.renew_all()
    assert held.deadline > before


def test_a_lease_that_cannot_be_renewed_keeps_its_deadline(store: JobStore, outage: Outage) -> None:
    store.submit(CHUNK_REQUESTS)
    lease = claim_next(store.database, MODEL, "worker-a", ttl_s=30)
    assert lease is not None
    held = held_until(lease, deadline=123.0)
    book = LeaseBook()
    book.add(held)
    outage.is_on = True
    with keeper(store, book, is_alive=True) as lively:
        assert not lively.renew_all()
    assert (held.deadline, held.lost) == (123.0, False)


class Clock:
    """Time passes only while the lease keeper waits; for a minute of it the database is away."""

    def __init__(self, outage: Outage, held: HeldLease, begins_at: float) -> None:
        self.now = 0.0
        self._outage = outage
        self._held = held
        self._begins_at = begins_at

    def wait(self, seconds: float) -> bool:
        """As of the event that ends the keeper; fails when the lease can be used no more."""
        self.now += seconds
        assert self._held.usable(self.now), f"fenced after {self.now:g} s"
        self._outage.is_on = self._begins_at <= self.now < self._begins_at + OUTAGE_S
        return self.now > self._begins_at + 2 * OUTAGE_S


@pytest.mark.parametrize("part", [0.1, 0.99, 1.0])
def test_an_outage_of_a_minute_is_outlasted_whenever_it_begins(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, outage: Outage, part: float
) -> None:
    settings = load_settings({})
    store.submit(CHUNK_REQUESTS)
    lease = claim_next(store.database, MODEL, "worker-a", ttl_s=settings.lease_ttl_s)
    assert lease is not None
    held = held_until(lease, deadline=lease_deadline(0.0, settings))
    book = LeaseBook()
    book.add(held)
    clock = Clock(outage, held, begins_at=part * settings.renew_period_s)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    lively = LeaseKeeper(
        book, database=store.database, settings=settings, is_engine_alive=lambda: True
    )
    monkeypatch.setattr(lively, "_stopping", clock)
    lively._run()
    assert outage.refused > 10


def test_patience_asks_less_and_less_often_until_it_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    patience = Patience()
    asked: list[float] = []

    def work() -> str:
        asked.append(now[0])
        if now[0] < 130:
            raise DatabaseUnavailable("away")
        return "done"

    while (result := patience.attempt(work)) is None:
        now[0] += 0.1
    assert result == "done"
    pauses = [round(later - earlier, 1) for earlier, later in pairwise(asked)]
    assert pauses == sorted(pauses)
    assert pauses[0] <= 0.4
    assert pauses[-1] <= 5.2
    assert not patience.waits


def held_until(lease: Lease, *, deadline: float) -> HeldLease:
    return HeldLease(lease=lease, deadline=deadline, claimed_at=0.0, waiting=deque())


@contextmanager
def keeper(store: JobStore, book: LeaseBook, *, is_alive: bool) -> Iterator[LeaseKeeper]:
    made = LeaseKeeper(
        book,
        database=store.database,
        settings=store.settings,
        is_engine_alive=lambda: is_alive,
    )
    yield made
    made.stop()
