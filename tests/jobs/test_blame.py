"""A request that crashes every engine, or kills every worker, costs itself alone."""

from __future__ import annotations

import time

from sqlalchemy import text

from models.states import ChunkState
from tests.jobs.conftest import CHUNK_REQUESTS, JobStore, MakeRunner, expected_texts
from tests.jobs.scripted_engine import Script
from tests.jobs.test_runner import let_back_off_pass, never


def test_a_request_that_always_crashes_costs_only_itself(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(40)
    script.crashes_on = lambda prompt: prompt.endswith("0013")
    runner = make_runner(max_crashes=3)
    deadline = time.monotonic() + 30
    while not store.batch(batch_id).is_terminal and time.monotonic() < deadline:
        let_back_off_pass(store)
        runner.serve(until=never)
    assert store.errors(batch_id) == {13: "worker_lost"}
    assert len(store.texts(batch_id)) == 39
    assert len(script.engines) - 1 <= 3


class WorkerKilled(BaseException):
    """The whole worker dies: nothing of it runs any more."""


def test_a_request_that_kills_every_worker_costs_only_itself(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    batch_id = store.submit(CHUNK_REQUESTS)
    deaths = 0

    def kills(prompt: str) -> bool:
        if prompt.endswith("0005"):
            raise WorkerKilled
        return False

    script.crashes_on = kills
    script.per_turn = 1
    deadline = time.monotonic() + 30
    while not store.batch(batch_id).is_terminal and time.monotonic() < deadline:
        runner = make_runner(f"worker-{deaths}", max_crashes=3)
        try:
            runner.serve(until=never)
        except WorkerKilled:
            deaths += 1
            runner.close()  # the renewals, which nobody would send
            with store.database.begin() as connection:
                connection.execute(text("UPDATE chunks SET lease_until = 0"))
    assert deaths == 3
    assert store.errors(batch_id) == {5: "worker_lost"}
    assert len(store.texts(batch_id)) == CHUNK_REQUESTS - 1
    assert [chunk.state for chunk in store.chunks(batch_id)] == [ChunkState.DONE]


def test_only_a_chunk_on_its_last_chance_notes_what_runs(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    first, second = store.submit(CHUNK_REQUESTS), store.submit(CHUNK_REQUESTS)
    with store.database.begin() as connection:
        crashed_twice = text("UPDATE chunks SET attempts = 2, crashes = 2 WHERE batch_id = :id")
        connection.execute(crashed_twice, {"id": first})
    noted: dict[str, set[int | None]] = {first: set(), second: set()}

    def look() -> None:
        for batch_id, seen in noted.items():
            for chunk in store.chunks(batch_id):
                if chunk.state is ChunkState.LEASED:
                    seen.add(chunk.running_idx)

    script.on_turn = look
    make_runner(max_crashes=3).serve(until=never)
    assert noted[first] - {None} == set(range(CHUNK_REQUESTS))
    assert noted[second] == {None}
    assert store.texts(first) == store.texts(second) == expected_texts(CHUNK_REQUESTS)
