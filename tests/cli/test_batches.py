"""Submitting and asking about batches, with no worker at hand."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from models.database import connect_database
from models.store.batches import list_chunks
from models.store.leases import claim_chunk
from tests.cli.console import Console, assert_one_sentence
from tests.cli.demo import PROMPTS


def _submit(console: Console, *flags: str) -> str:
    return console.succeed("submit", PROMPTS, "--model", "demo-model", *flags).strip()


def test_submit_prints_the_id_and_nothing_else(demo_console: Console) -> None:
    ended = demo_console.run("submit", PROMPTS, "--model", "demo-model")
    assert ended.returncode == 0
    assert ended.stdout.startswith("batch_")
    assert len(ended.stdout.splitlines()) == 1
    assert ended.stderr == ""


def test_status_as_json_is_the_batch_object(demo_console: Console) -> None:
    submitted = json.loads(_submit(demo_console, "--json"))
    status = json.loads(demo_console.succeed("status", submitted["id"], "--json"))
    assert status["object"] == "batch"
    assert status["status"] == "in_progress"
    assert status["model"] == "demo-model"
    assert status["request_counts"] == {"total": 200, "completed": 0, "failed": 0}
    assert set(status["nightshift"]) >= {"eta_seconds", "tokens_per_second", "weights"}
    assert json.loads(demo_console.succeed("status", "--json")) == [status]


def test_the_same_idempotency_key_makes_one_batch(demo_console: Console) -> None:
    first = _submit(demo_console, "--idempotency-key", "k")
    assert _submit(demo_console, "--idempotency-key", "k") == first
    assert _submit(demo_console) != first
    other = demo_console.call(
        "submit", PROMPTS, "--model", "demo-model", "--idempotency-key", "k", "--max-tokens", "3"
    )
    assert other.returncode == 2
    assert_one_sentence(other, "'k'")


def test_waiting_gives_up_after_its_timeout(demo_console: Console) -> None:
    ended = demo_console.call("wait", _submit(demo_console), "--timeout", "0.1")
    assert ended.returncode == 6
    assert_one_sentence(ended, "still in_progress")


def test_a_cancelled_batch_ends_and_can_be_retried(demo_console: Console, tmp_path: Path) -> None:
    batch = _submit(demo_console)
    assert demo_console.succeed("cancel", batch).strip() == batch
    ended = demo_console.call("wait", batch)
    assert ended.returncode == 6
    assert_one_sentence(ended, "cancelled")

    assert demo_console.succeed("results", batch) == ""
    errors = tmp_path / "errors.jsonl"
    demo_console.succeed("results", batch, "--errors", "-o", errors)
    codes = {json.loads(line)["error"]["code"] for line in errors.read_text().splitlines()}
    assert codes == {"batch_cancelled"}

    again = demo_console.succeed("retry", batch).strip()
    status = json.loads(demo_console.succeed("status", again, "--json"))
    assert status["metadata"]["retry_of"] == batch
    assert status["request_counts"]["total"] == 200


@pytest.mark.parametrize("is_gone", [True, False])
def test_cancelling_ends_the_batch_of_a_killed_run_and_waits_for_a_living_one(
    demo_console: Console, is_gone: bool
) -> None:
    batch = _submit(demo_console)
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with holder, connect_database(f"sqlite:///{demo_console.home / 'nightshift.db'}") as database:
        name = f"{socket.gethostname()}-{holder.pid}-0123abcd"
        chunk = list_chunks(database, batch)[0]
        assert claim_chunk(database, chunk.id, name, ttl_s=3600) is not None
        if is_gone:
            holder.kill()
            holder.wait()
        cancelled = json.loads(demo_console.succeed("cancel", batch, "--json"))
        holder.kill()
    assert cancelled["status"] == ("cancelled" if is_gone else "cancelling")


def test_a_running_batch_cannot_be_retried(demo_console: Console) -> None:
    ended = demo_console.call("retry", _submit(demo_console))
    assert ended.returncode == 2
    assert_one_sentence(ended, "cancel it first")


def test_a_paused_batch_says_so_and_can_be_resumed(demo_console: Console) -> None:
    batch = _submit(demo_console)
    paused = json.loads(demo_console.succeed("pause", batch, "--json"))
    assert paused["nightshift"]["paused"]
    assert "in_progress, paused" in demo_console.succeed("status", batch)
    assert demo_console.succeed("resume", batch).strip() == batch
    assert "paused" not in demo_console.succeed("status", batch)
    demo_console.succeed("cancel", batch)
    for command in ("pause", "resume"):
        ended = demo_console.call(command, batch)
        assert ended.returncode == 2
        assert_one_sentence(ended, "is cancelled")


def test_people_get_tables(demo_console: Console) -> None:
    assert demo_console.call("status").stderr.startswith("no batch yet")
    batch = _submit(demo_console)
    listed = demo_console.succeed("status").splitlines()
    assert listed[0].split()[:3] == ["BATCH", "STATE", "MODEL"]
    assert listed[1].split()[:3] == [batch, "in_progress", "demo-model:int8"]
    assert "0 of 200" in demo_console.succeed("status", batch)


def test_data_is_utf8_whatever_the_locale(demo_console: Console, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"custom_id": "größe", "prompt": "x", "colour": 1}\n', encoding="utf-8")
    batch = demo_console.succeed("submit", source, "--model", "demo-model").strip()
    ascii_console = Console(demo_console.home, {"PYTHONIOENCODING": "ascii"})
    ended = ascii_console.run("results", batch, "--errors")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["custom_id"] == "größe"
