"""Every command says the same, to the byte, whether it asks a server or the server's database."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from models.generation import Refusal
from models.states import BatchState
from models.store.batches import cancel_batch, finalize_batch, get_batch
from models.store.commit import commit_outcomes
from models.store.leases import missing_requests
from models.store.results import stream_records
from models.store.submit import submit_batch
from models.store.views import Batch, Outcome
from models.tables import files, requests
from models.wire.lines import Line
from tests.cli.console import assert_one_sentence
from tests.cli.demo import PROMPTS
from tests.cli.served import Served, serve_home
from tests.servers import wait_until
from tests.store.builders import (
    TTL_S,
    accepted,
    answers,
    claim,
    refused,
    rows,
    submission,
    submit,
    work_off,
)
from tests.wire.files import chat_line, write
from tests.wire.test_upload_lines import csv_file, parquet_file, plain_file, text_file


@dataclass(frozen=True, slots=True)
class History:
    """A served home with one batch of every kind, none of which goes on."""

    served: Served
    batches: Mapping[str, Batch]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    kinds = (completed, cancelled, failed, half_done)
    with serve_home(tmp_path_factory.mktemp("history")) as served:
        yield History(served, {make.__name__: make(served) for make in kinds})


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serve_home(tmp_path) as served:
        yield served


def completed(served: Served) -> Batch:
    """Two answers, one line that was refused at once and one request that was refused later."""
    lines: list[Line] = [accepted(0), refused(1), accepted(2), accepted(3)]
    batch = submit_batch(served.database, submission(), lines).batch
    lease = claim(served.database)
    *most, last = missing_requests(served.database, lease)
    refusal = Refusal(code="context_length_exceeded", message="too long: ä", param="messages")
    outcomes = [*answers(most), Outcome(idx=last.idx, refusal=refusal)]
    commit_outcomes(served.database, lease, outcomes, ttl_s=TTL_S)
    return finalize_batch(served.database, batch.id)


def cancelled(served: Served) -> Batch:
    batch = submit(served.database, 5)
    return cancel_batch(served.database, batch.id)


def half_done(served: Served) -> Batch:
    batch = submit(served.database, 20)
    for _ in range(2):
        lease = claim(served.database)
        found = missing_requests(served.database, lease)
        commit_outcomes(served.database, lease, answers(found), ttl_s=TTL_S)
    return get_batch(served.database, batch.id)


def failed(served: Served) -> Batch:
    lines = [refused(n, "invalid_json_line") for n in range(3)]
    return submit_batch(served.database, submission(), lines).batch


def ended_upload(served: Served, batch_id: str) -> Batch:
    """A batch of an uploaded file, every line of it checked."""

    def is_checked() -> bool:
        return get_batch(served.database, batch_id).state != BatchState.VALIDATING

    wait_until(is_checked, "the server has checked the file")
    return get_batch(served.database, batch_id)


# --- what only reads ---------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_status(history: History, flags: tuple[str, ...]) -> None:
    listed = history.served.both("status", *flags).stdout
    for batch in history.batches.values():
        assert batch.id in history.served.both("status", batch.id, *flags).stdout
        assert batch.id in listed


def test_status_without_any_batch(served: Served) -> None:
    assert served.both("status", "--json").stdout == "[]\n"
    assert served.both("status").stderr.startswith("no batch yet")


@pytest.mark.parametrize("kind", ["completed", "cancelled", "failed"])
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_wait_and_watch(history: History, kind: str, flags: tuple[str, ...]) -> None:
    batch = history.batches[kind]
    ended = history.served.both("wait", batch.id, *flags)
    assert ended.returncode == (0 if kind == "completed" else 6)
    watched = history.served.both("status", batch.id, "--watch", *flags)
    assert str(batch.state) in watched.stdout


def test_waiting_gives_up_after_its_timeout(history: History) -> None:
    ended = history.served.both("wait", history.batches["half_done"].id, "--timeout", "0.1")
    assert ended.returncode == 6
    assert_one_sentence(ended, "still in_progress after 0.1 s (16 of 20 requests)")


@pytest.mark.parametrize("flags", [(), ("--errors",)])
def test_results_of_an_ended_batch(
    history: History, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    served, batch = history.served, history.batches["completed"]
    assert len(served.both("results", batch.id, *flags).stdout.splitlines()) == 2
    written = []
    for console in (served.local, served.remote):
        console.succeed("results", batch.id, "-o", tmp_path / "out.jsonl", *flags)
        written.append((tmp_path / "out.jsonl").read_bytes())
    assert written[0] == written[1] != b""


@pytest.mark.parametrize("flags", [(), ("--errors",)])
def test_results_of_a_batch_that_runs(history: History, flags: tuple[str, ...]) -> None:
    shown = history.served.both("results", history.batches["half_done"].id, *flags).stdout
    assert len(shown.splitlines()) == (0 if flags else 16)


@pytest.mark.parametrize("kind", ["completed", "cancelled", "failed"])
@pytest.mark.parametrize("flags", [(), ("--errors",)])
def test_following_to_the_end(history: History, kind: str, flags: tuple[str, ...]) -> None:
    batch = history.batches[kind]
    shown = history.served.both("results", batch.id, "--follow", *flags).stdout
    assert len(shown.splitlines()) == (batch.failed if flags else batch.completed)


def test_results_where_there_are_none(history: History) -> None:
    batch = history.batches["cancelled"]
    assert history.served.both("results", batch.id).stdout == ""
    assert len(history.served.both("results", batch.id, "--errors").stdout.splitlines()) == 5


@pytest.mark.parametrize("command", ["status", "wait", "results", "cancel"])
def test_an_unknown_batch(history: History, command: str) -> None:
    for batch in ("batch_0", "batch?y#z", "ä"):
        ended = history.served.both(command, batch)
        assert ended.returncode == 3
        assert_one_sentence(ended, f"there is no batch {batch}")
    assert history.served.remote.call(command, "batch/../files").returncode == 3


def test_an_ended_batch_cannot_be_cancelled(history: History) -> None:
    ended = history.served.both("cancel", history.batches["completed"].id)
    assert ended.returncode == 2
    assert_one_sentence(ended, "is completed; nothing is left to cancel")


# --- what changes something --------------------------------------------------------------------


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_cancel(served: Served, flags: tuple[str, ...]) -> None:
    said = []
    for console in (served.local, served.remote):
        batch = submit(served.database, 5)
        shown = console.succeed("cancel", batch.id, *flags)
        ids = (batch.id, batch.file_id, batch.id.removeprefix("batch_"))
        said.append(re.sub(r'_at": \d+', '_at": 0', re.sub("|".join(ids), "ID", shown)))
        assert get_batch(served.database, batch.id).state == BatchState.CANCELLED
    assert said[0] == said[1]


def test_retry(served: Served) -> None:
    batch = cancelled(served)
    fresh = [
        console.succeed("retry", batch.id).strip() for console in (served.local, served.remote)
    ]
    here, there = [get_batch(served.database, batch_id) for batch_id in fresh]
    assert stored(served, here) == stored(served, there)
    assert here.metadata == there.metadata == {"retry_of": batch.id}


def test_a_batch_that_cannot_be_retried(history: History) -> None:
    for kind, reason in (("half_done", "cancel it first"), ("failed", "no request that failed")):
        ended = history.served.both("retry", history.batches[kind].id)
        assert ended.returncode == 2
        assert_one_sentence(ended, reason)


def openai_file(folder: Path) -> Path:
    lines = [chat_line(f"r{n}", model="demo", temperature=0) for n in range(3)]
    return write(folder / "in.jsonl", b"not JSON", *lines, {"prompt": "a", "x": 1})


FORMS = [openai_file, plain_file, text_file, csv_file, parquet_file]
FLAGS = [(), ("--system", "Be brief."), ("--completions",), ("--max-tokens", "8", "--stop", "END")]


@pytest.mark.parametrize("make", FORMS)
def test_what_is_submitted_runs_the_same(served: Served, tmp_path: Path, make: Any) -> None:
    path = make(tmp_path)
    for flags in FLAGS:
        submitted = [
            console.succeed("submit", path, "--model", "demo", "--priority", "3", *flags).strip()
            for console in (served.local, served.remote)
        ]
        here, there = [ended_upload(served, batch_id) for batch_id in submitted]
        assert stored(served, here) == stored(served, there)
        for name in ("endpoint", "model", "state", "priority", "completion_window_s", "total"):
            assert getattr(here, name) == getattr(there, name)
        work_off(served.database)
        assert refusals_of(served, here) == refusals_of(served, there)


def stored(served: Served, batch: Batch) -> list[dict[str, object]]:
    """The requests as they lie in the database, and what was refused at once."""
    found = rows(served.database, requests, batch_id=batch.id)
    assert found
    refusals = {record.idx: record.refusal for record in stream_records(served.database, batch.id)}
    others = {"batch_id": "", "chunk_id": 0}
    return [{**row, **others, "refusal": refusals.get(row["idx"])} for row in found]


def refusals_of(served: Served, batch: Batch) -> str:
    """The error file of an ended batch, the batch's id left out."""
    finalize_batch(served.database, batch.id)
    shown = served.both("results", batch.id, "--errors").stdout
    return shown.replace(batch.id.removeprefix("batch_"), "")


def test_a_file_in_openais_form_is_uploaded_as_it_is(served: Served, tmp_path: Path) -> None:
    path = openai_file(tmp_path)
    batch_id = served.remote.succeed("submit", path, "--model", "demo:int8").strip()
    (file,) = rows(served.database, files, id=ended_upload(served, batch_id).file_id)
    assert (file["name"], file["n_bytes"]) == (path.name, path.stat().st_size)


def test_submit_prints_the_batch_as_the_server_has_it(served: Served, tmp_path: Path) -> None:
    path = write(tmp_path / "in.txt", *(b"prompt" for _ in range(200)))
    ended = served.remote.run("submit", path, "--model", "demo", "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    batch = json.loads(ended.stdout)
    checked = ended_upload(served, batch["id"])
    assert (checked.total, checked.state) == (200, BatchState.IN_PROGRESS)
    assert batch["completion_window"] == "none"


def test_the_same_idempotency_key_makes_one_batch(served: Served, tmp_path: Path) -> None:
    path = write(tmp_path / "in.txt", b"prompt")
    again = ("submit", path, "--model", "demo", "--idempotency-key", "k")
    first = served.remote.succeed(*again)
    n_files = len(rows(served.database, files))
    assert served.remote.succeed(*again) == first
    assert len([f for f in rows(served.database, files) if f["deleted_at"] is None]) == n_files
    assert served.remote.succeed(*again[:-2]) != first
    other = served.remote.call(*again, "--max-tokens", "3")
    assert other.returncode == 2
    assert_one_sentence(other, "'k' was used for batch", "choose a new key")


UNUSABLE = [
    ("gone.jsonl", None),
    ("in.jsonl", ""),
    ("in.jsonl", "neither\nof these\n"),
    ("in.csv", "colour\nred\n"),
    ("in.csv", 'prompt\nfirst\n"never closed'),
    ("in.pdf", "?"),
]


def test_a_file_that_cannot_be_used_leaves_nothing_behind(served: Served, tmp_path: Path) -> None:
    for name, content in UNUSABLE:
        path = tmp_path / name
        if content is not None:
            path.write_text(content, encoding="utf-8")
        ended = served.both("submit", path, "--model", "demo")
        assert ended.returncode == 2
        assert_one_sentence(ended)
    assert served.both("status", "--json").stdout == "[]\n"
    wait_until(lambda: rows(served.database, files) == [], "the server has dropped what broke off")


UNUSABLE_FLAGS = [
    (("--model", "demo", "--temperature", "9"), 2, "temperature is 9"),
    (("--model", "demo", "--system", "x", "--completions"), 2, "leave out either --system"),
    (("--model", "none"), 3, "no model none is served here (known: demo:int8)"),
    (("--model", "demo:int4"), 3, "no model demo:int4 is served here"),
    (("--model", "demo:int8", "--weights", "int4"), 2, "differ; leave one out"),
]


def test_flags_that_cannot_be_used(history: History) -> None:
    for flags, code, reason in UNUSABLE_FLAGS:
        ended = history.served.both("submit", PROMPTS, *flags)
        assert ended.returncode == code
        assert_one_sentence(ended, reason)


def test_a_file_over_the_servers_limit_is_refused_by_it(tmp_path: Path) -> None:
    path = write(tmp_path / "in.txt", *(b"a line of text" for _ in range(20_000)))
    with serve_home(tmp_path, max_file_bytes=1_000_000) as served:
        ended = served.remote.call("submit", path, "--model", "demo")
        wait_until(lambda: rows(served.database, files) == [], "the server has dropped the file")
    assert ended.returncode == 2
    assert_one_sentence(ended, "the file has more than 1000000 bytes: split it")
