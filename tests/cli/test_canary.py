"""`nightshift canary` with a live worker: what is kept, told and shown."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.database_store import DatabaseStore
from models.errors import DatabaseUnavailable, StorageFull
from nightshift import Batch, Json
from tests.cli.console import Console, assert_one_sentence
from tests.cli.demo import EXPECTED, PROMPTS, read_lines, write_lines
from tests.cli.waiting import until

LIMIT_S = 60.0
N_PROMPTS = 12


@pytest.fixture
def files(tmp_path: Path) -> tuple[str | Path, ...]:
    """Some of the demo's prompts, and their answers, one of them a wrong one."""
    lines = read_lines(EXPECTED)[:N_PROMPTS]
    lines[-1]["answer"] = "-"
    prompts = write_lines(tmp_path / "prompts.jsonl", iter(read_lines(PROMPTS)[:N_PROMPTS]))
    return (
        "--prompts",
        prompts,
        "--expected",
        write_lines(tmp_path / "expected.jsonl", iter(lines)),
    )


@pytest.fixture
def served(demo_console: Console) -> Iterator[Console]:
    """A console beside which a worker serves the demo model."""
    worker = demo_console.start("worker", "--model", "demo-model")
    yield demo_console
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=LIMIT_S)


def listed(console: Console) -> list[Json]:
    batches: list[Json] = json.loads(console.succeed("status", "--json"))
    return batches


def test_live_workers_are_measured_and_status_shows_it(
    served: Console, files: tuple[str | Path, ...]
) -> None:
    first = json.loads(served.succeed("canary", "demo-model", *files, "--json"))
    assert (first["model"], first["expected"]) == ("demo-model:int8", N_PROMPTS)
    assert N_PROMPTS - 3 <= first["exact"] < N_PROMPTS
    told = served.succeed("canary", "demo-model", *files)
    assert told.startswith(f"demo-model:int8: {first['exact']} of {N_PROMPTS} exact")

    *_, empty, head, row = served.succeed("status").splitlines()
    assert (empty, head.split()[0]) == ("", "CANARY")
    share = f"{first['exact'] / N_PROMPTS:.1%}"
    assert row.split()[:3] == ["demo-model:int8", share, share]
    batches = json.loads(served.succeed("status", "--json"))
    assert [batch["status"] for batch in batches] == ["completed"] * 2


def test_it_goes_on_until_it_is_stopped(served: Console, files: tuple[str | Path, ...]) -> None:
    running = served.start("canary", "demo-model", *files, "--every", "1", "--json")
    assert running.stdout is not None
    lines = [json.loads(running.stdout.readline()) for _ in range(2)]
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=LIMIT_S)
    assert running.returncode == 130
    assert lines[0]["batch"] != lines[1]["batch"]
    assert lines[0]["exact"] == lines[1]["exact"]


def test_without_a_worker_it_is_cancelled(
    demo_console: Console, files: tuple[str | Path, ...]
) -> None:
    ended = demo_console.call("canary", "demo-model", *files, "--timeout", "1")
    assert ended.returncode == 6
    assert_one_sentence(ended, "was not completed within 1 s", "a worker of its model runs")
    (batch, *_) = json.loads(demo_console.succeed("status", "--json"))
    assert batch["status"] == "cancelled"


def test_a_batch_that_completes_when_the_time_is_up_counts(
    served: Console, files: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    await_end = DatabaseStore.await_end

    def look_a_moment_before(store: DatabaseStore, batch_id: str, _timeout_s: float) -> Batch:
        batch = store.batch(batch_id)
        await_end(store, batch_id, LIMIT_S)
        return batch

    monkeypatch.setattr(DatabaseStore, "await_end", look_a_moment_before)
    told = served.succeed("canary", "demo-model", *files)
    assert f"of {N_PROMPTS} exact" in told


def test_expected_answers_of_other_requests_are_refused(
    served: Console, files: tuple[str | Path, ...]
) -> None:
    flags = (*files[:2], "--expected", EXPECTED)
    ended = served.call("canary", "demo-model", *flags)
    assert ended.returncode == 2
    assert_one_sentence(ended, "are of no request", "belong together")
    assert "CANARY" not in served.succeed("status")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_cancels_its_batch(
    number: signal.Signals, demo_console: Console, files: tuple[str | Path, ...]
) -> None:
    running = demo_console.start("canary", "demo-model", *files, "--every", "1")
    (batch,) = until(lambda: listed(demo_console) or None, "its batch")
    running.send_signal(number)
    _, words = running.communicate(timeout=LIMIT_S)
    assert (running.returncode, words) == (130, f"batch {batch['id']} is cancelled\n")
    assert [each["status"] for each in listed(demo_console)] == ["cancelled"]


def test_interrupted_without_a_database_it_says_that_the_batch_is_left(
    demo_console: Console, files: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def fail(*_: object) -> None:
        raise DatabaseUnavailable("the database is away: start it")

    monkeypatch.setattr(DatabaseStore, "await_end", interrupt)
    monkeypatch.setattr(DatabaseStore, "cancel", fail)
    ended = demo_console.call("canary", "demo-model", *files)
    assert ended.returncode == 130
    assert ended.stderr.splitlines() == [
        "this canary's batch is not cancelled: the database is away: start it"
    ]


def test_a_failure_is_told_and_the_next_one_tried(
    demo_console: Console, files: tuple[str | Path, ...]
) -> None:
    running = demo_console.start("canary", "demo-model", *files, "--timeout", "1", "--every", "1")
    assert running.stderr is not None
    told = [running.stderr.readline() for _ in range(2)]
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=LIMIT_S)
    assert all(line.startswith("this canary failed: batch batch_") for line in told)
    assert told[0] != told[1]


def test_it_goes_on_after_a_full_disk(
    demo_console: Console, files: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [StorageFull("no space left"), KeyboardInterrupt()]

    def fail(*_: object) -> None:
        raise ends.pop(0)

    monkeypatch.setattr("cli.canary._measure", fail)
    ended = demo_console.call("canary", "demo-model", *files, "--every", "1")
    assert ended.returncode == 130
    assert "this canary failed: no space left" in ended.stderr


def test_a_missing_file_is_one_sentence(demo_console: Console) -> None:
    flags = ("--prompts", PROMPTS, "--expected", "missing.jsonl")
    assert_one_sentence(demo_console.call("canary", "demo-model", *flags), "missing.jsonl")
