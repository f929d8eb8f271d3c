"""`nightshift evaluate` and `model quantize` compare what IPEX can compute a model with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.lowp import Lowp
from tests.cli.console import Console
from tests.ipex.conftest import DEMO
from worker.llm.artifact import read_manifest
from worker.llm.ipex.recipe import IpexRecipe, read_recipe

EXAMPLES = DEMO.parent


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path / "home", {"NIGHTSHIFT_THREADS": "1"})


@pytest.fixture
def files(tmp_path: Path) -> tuple[str | Path, ...]:
    """Flags for twenty prompts and their answers."""
    flags: list[str | Path] = []
    for name in ("prompts", "expected"):
        lines = (EXAMPLES / f"{name}.jsonl").read_text().splitlines()[:20]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        flags += [f"--{name}", tmp_path / name]
    return tuple(flags)


def test_every_precision_is_a_candidate_and_the_registry_keeps_its_artifact(
    console: Console, files: tuple[str | Path, ...]
) -> None:
    console.succeed("model", "add", DEMO, "--backend", "ipex", "--ipex-option", "group_size=64")
    texts = ["int8", "int8@ipex:none", "int8@ipex:bf16", "int8@ipex:int8"]
    flags = ("--candidates", ",".join(texts), "--trials", "1", "--json")
    report = json.loads(console.succeed("evaluate", DEMO, *files, *flags))
    found = report["candidates"]
    assert [each["ipex_lowp"] for each in found] == [None, "none", "bf16", "int8"]
    for each in found:
        assert each["failed"] == 0
        assert each["exact_percent"] >= 90.0
        assert 1.0 < each["perplexity"] < 1.2
        assert each["agreement_percent"] > 95.0
    # Symmetric weights have no zero points.
    assert found[3]["artifact_bytes"] < found[2]["artifact_bytes"] == found[1]["artifact_bytes"]
    kept = read_manifest(console.home / "registry" / DEMO.name / "int8.ipex")
    assert read_recipe(kept.recipe) == IpexRecipe(lowp=Lowp.BF16, group_size=64)
    assert list(console.home.glob("evaluate-*")) == []


def test_what_is_made_is_measured_beside_full_weights_of_the_native_backend(
    console: Console, files: tuple[str | Path, ...]
) -> None:
    console.succeed("model", "add", DEMO, "--backend", "ipex")
    flags = ("--weights", "int4", "--backend", "ipex", "--ipex-option", "lowp=none", "--json")
    made = json.loads(console.succeed("model", "quantize", DEMO.name, *flags, *files))
    full, int4 = made["evaluation"]["candidates"]
    assert (full["weights"], full["backend"]) == ("bf16", "native")
    assert (int4["weights"], int4["backend"]) == ("int4", "ipex")
    assert int4["artifact_bytes"] == made["bytes"]
    assert int4["perplexity"] == pytest.approx(full["perplexity"], rel=0.02)
