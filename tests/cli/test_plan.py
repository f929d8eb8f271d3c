"""`nightshift plan` on this machine, for people and for scripts."""

from __future__ import annotations

import json
import os

from tests.cli.console import Console, assert_one_sentence
from worker.planning.cpu_lists import parse_cpus


def test_a_script_gets_the_machine_and_the_workers(demo_console: Console) -> None:
    found = json.loads(demo_console.succeed("plan", "--model", "demo-model", "--json"))
    assert found["machine"]["total_bytes"] > 0
    assert "at most 4" in found["system"]["rule"]
    assert found["model"]["name"] == "demo-model:int8"
    assert found["workers"]
    for share in found["workers"]:
        assert set(parse_cpus(share["cpus"])) <= os.sched_getaffinity(0)
        assert share["kv_tokens"] * found["model"]["kv_bytes_per_token"] <= share["kv_cache_bytes"]


def test_a_person_gets_a_table_and_the_rule(demo_console: Console) -> None:
    told = demo_console.succeed("plan", "--model", "demo-model:int8", "--instances", "1")
    assert "WORKER  NUMA" in told
    assert "the system keeps one hyperthread in eight, at most 4" in told


def test_without_a_model_the_machine_is_shown(console: Console) -> None:
    assert "--model NAME" in console.succeed("plan")
    assert set(json.loads(console.succeed("plan", "--json"))) == {"machine", "system"}


def test_what_does_not_fit_is_one_sentence(demo_console: Console) -> None:
    ended = demo_console.run("plan", "--model", "demo-model", "--instances", "100000")
    assert ended.returncode == 2
    assert_one_sentence(ended, "100000 workers need a core each", "give --instances")


def test_memory_that_is_not_there_is_one_sentence(demo_console: Console) -> None:
    ended = demo_console.run("plan", "--model", "demo-model", "--kv-cache-bytes", str(1 << 60))
    assert ended.returncode == 2
    assert_one_sentence(ended, "1 worker of demo-model:int8", "of KV cache", "free memory")
