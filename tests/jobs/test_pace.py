"""How fast requests finish, and how many are therefore held ready."""

from __future__ import annotations

from tests.jobs.conftest import CHUNK_REQUESTS, JobStore, MakeRunner
from tests.jobs.scripted_engine import Script
from worker.jobs.pace import Pace


def test_only_the_last_quarter_of_a_second_counts() -> None:
    now = [100.0]
    pace = Pace(clock=lambda: now[0])
    pace.note(5)
    now[0] += 0.2
    pace.note(3)
    assert pace.recent == 8
    now[0] += 0.2
    assert pace.recent == 3
    now[0] += 0.2
    assert pace.recent == 0


def test_of_short_requests_more_are_held_ready_but_not_without_bound(
    store: JobStore, script: Script, make_runner: MakeRunner
) -> None:
    store.submit(600)
    script.per_turn = 100
    runner = make_runner(micro_batch_requests=100)
    seen: list[int] = []
    script.on_turn = lambda: seen.append(runner.book.unfinished)
    runner.serve(until=lambda: False)
    at_once = store.settings.max_sequences
    assert at_once * 5 // 4 + CHUNK_REQUESTS < max(seen) < 4 * at_once + CHUNK_REQUESTS
