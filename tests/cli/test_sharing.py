"""Artifacts that one machine made, on another: push, pull, and workers that pull by themselves."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from models.model_key import ModelKey
from tests.cli.console import Console, assert_one_sentence
from tests.cli.demo import MODEL, PROMPTS, read_lines, write_lines
from worker.llm.artifact import Artifact
from worker.llm.artifact_use import last_used_at
from worker.llm.remote_registry import Progress, RemoteRegistry, Sent

N_PROMPTS = 8


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all nodes have, with the demo model in it."""
    home, shared = tmp_path_factory.mktemp("maker"), tmp_path_factory.mktemp("shared")
    maker = Console(home, {"NIGHTSHIFT_REGISTRY_URL": str(shared)})
    maker.succeed("model", "add", MODEL, "--weights", "int8")
    assert maker.succeed("model", "push", "demo-model") == "demo-model:int8\n"
    return shared


@pytest.fixture
def node(tmp_path: Path, shared: Path, models_home: Path) -> Console:
    """Another machine, which has no model."""
    home = tmp_path / "node"
    home.mkdir()
    (home / "kernels").symlink_to(models_home / "kernels")
    return Console(home, {"NIGHTSHIFT_REGISTRY_URL": shared.as_uri(), "NIGHTSHIFT_THREADS": "1"})


def test_a_second_push_sends_nothing(tmp_path: Path, shared: Path) -> None:
    other = Console(tmp_path)
    other.succeed("model", "pull", "demo-model", "--from", shared)
    ended = other.call("model", "push", "demo-model:int8", "--to", shared)
    assert ended.returncode == 0
    assert "sent 0 of " in ended.stderr


def test_a_run_pulls_what_is_missing_and_quantizes_nothing(node: Console, tmp_path: Path) -> None:
    prompts = write_lines(tmp_path / "prompts.jsonl", iter(read_lines(PROMPTS)[:N_PROMPTS]))
    output = tmp_path / "output.jsonl"
    first = node.run("run", prompts, "-o", output, "--model", "demo-model")
    assert first.returncode == 0, first.stderr
    assert "pulling demo-model:int8 took" in first.stderr
    assert "quantizing" not in first.stderr
    assert len(read_lines(output)) == N_PROMPTS
    again = node.run("run", prompts, "-o", tmp_path / "again.jsonl", "--model", "demo-model")
    assert again.returncode == 0, again.stderr
    assert "pulling" not in again.stderr


def test_workers_that_start_at_once_share_one_download(node: Console) -> None:
    workers = [
        node.start("worker", "--model", "demo-model", "--weights", "int8", "--until-eof")
        for _ in range(2)
    ]
    told = [worker.communicate(timeout=60)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], told
    assert sum("pulling demo-model:int8 took" in each for each in told) == 1
    assert not any("quantizing" in each for each in told)


def test_a_model_that_is_nowhere_says_how_to_share_it(node: Console) -> None:
    ended = node.call("model", "pull", "nope")
    assert ended.returncode == 3
    assert_one_sentence(ended, "nightshift model push nope")
    assert_one_sentence(node.call("worker", "--model", "nope"), "nightshift model push nope")


def test_without_a_shared_registry_the_flag_is_named(tmp_path: Path) -> None:
    console = Console(tmp_path)
    assert_one_sentence(console.call("model", "pull", "x"), "--from URL", "NIGHTSHIFT_REGISTRY_URL")


def test_what_is_damaged_is_told_not_sent_and_collected(node: Console) -> None:
    node.succeed("model", "pull", "demo-model:int8")
    assert node.succeed("model", "verify").startswith("whole  ")
    (tensors,) = (node.home / "registry").glob("demo-model/int8/*.safetensors")
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    for command in (("verify", "demo-model"), ("push", "demo-model")):
        ended = node.call("model", *command)
        assert ended.returncode == 5
        assert_one_sentence(ended, "is damaged")
    tensors.unlink()
    (found,) = json.loads(node.succeed("model", "gc", "--dry-run", "--json"))
    assert found["reason"] == "damaged"
    assert "1 removed" in node.call("model", "gc").stderr
    assert node.succeed("model", "list", "--json") == "[]\n"
    assert_one_sentence(node.call("model", "verify", "demo-model"), "no model demo-model")


def test_what_is_not_used_goes_and_can_be_pulled_again(node: Console) -> None:
    node.succeed("model", "pull", "demo-model", "--weights", "int8")
    assert node.call("model", "pull", "demo-model", "--weights", "int8").stderr == ""
    node.succeed("model", "gc", "--unused-for", "0")
    assert node.succeed("model", "list", "--json") == "[]\n"
    node.succeed("model", "pull", "demo-model")


def test_what_is_being_pushed_is_not_removed(
    node: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.succeed("model", "pull", "demo-model")
    folder = node.home / "registry" / "demo-model" / "int8"
    used_at = last_used_at(folder)
    push, others = RemoteRegistry.push, [("remove", "demo-model"), ("gc", "--unused-for", "0")]
    ended: list[subprocess.CompletedProcess[str]] = []

    def push_while_others_remove(
        remote: RemoteRegistry, artifact: Artifact, key: ModelKey, progress: Progress
    ) -> Sent:
        ended.extend(node.run("model", *other) for other in others)
        return push(remote, artifact, key, progress)

    monkeypatch.setattr(RemoteRegistry, "push", push_while_others_remove)
    pushed = node.call("model", "push", "demo-model", "--to", tmp_path / "elsewhere")
    assert (pushed.returncode, pushed.stdout) == (0, "demo-model:int8\n"), pushed.stderr
    refused, collected = ended
    assert refused.returncode == 1
    assert_one_sentence(refused, "wait for the push")
    assert collected.stderr.startswith("0 removed")
    assert last_used_at(folder) == used_at
    node.succeed("model", "remove", "demo-model")


def test_contents_of_no_artifact_go_from_the_shared_registry(node: Console, shared: Path) -> None:
    left = shared / "files" / ("0" * 64)
    left.write_bytes(b"x" * 2048)
    assert node.succeed("model", "gc", "--shared", "--json") == "[]\n"  # somebody may push it
    days_ago = time.time() - 3 * 86400
    os.utime(left, (days_ago, days_ago))
    arguments = ("model", "gc", "--shared", "--unused-for", "2")
    (found,) = json.loads(node.succeed(*arguments, "--dry-run", "--json"))
    assert found == {
        "file": f"{shared.as_uri()}/files/{left.name}",
        "bytes": 2048,
        "reason": "of no artifact, sent 3 days ago",
    }
    ended = node.call(*arguments)
    assert ended.stdout.startswith(found["file"])
    assert ended.stderr == "1 removed, 2.0 KB\n"
    assert not left.exists()
    node.succeed("model", "pull", "demo-model")
    assert_one_sentence(node.call(*arguments[:-1], "0.5"), "give 1 or more days")


def test_the_shared_registry_to_collect_from_has_to_be_named(tmp_path: Path) -> None:
    assert_one_sentence(
        Console(tmp_path).call("model", "gc", "--shared"), "NIGHTSHIFT_REGISTRY_URL"
    )
