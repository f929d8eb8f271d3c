"""`nightshift evaluate` on the demo model: what it measures, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.candidates import parse_candidates
from models.backend_name import BackendName
from models.lowp import Lowp
from models.settings import load_settings
from tests.cli.console import Console, assert_one_sentence
from tests.cli.demo import EXPECTED, MODEL, PROMPTS, read_lines, write_lines

N_PROMPTS = 40


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory, models_home: Path) -> Console:
    """A registry of its own: what candidates need stays in it, and others name models alone."""
    home = tmp_path_factory.mktemp("evaluator")
    (home / "kernels").symlink_to(models_home / "kernels")
    return Console(home, {"NIGHTSHIFT_THREADS": "1"})


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "prompts.jsonl", iter(read_lines(PROMPTS)[:N_PROMPTS]))


@pytest.fixture
def expected(tmp_path: Path) -> Path:
    """The answers to those prompts, one of them a wrong one."""
    lines: list[dict[str, Any]] = read_lines(EXPECTED)[:N_PROMPTS]
    lines[-1]["answer"] = "-"
    return write_lines(tmp_path / "expected.jsonl", iter(lines))


def test_weights_and_backends_are_compared_on_the_same_prompts(
    evaluator: Console, tmp_path: Path, prompts: Path, expected: Path
) -> None:
    report, plot = tmp_path / "report.json", tmp_path / "plot.svg"
    ended = evaluator.run(
        *("evaluate", MODEL, "--candidates", "fp32,int8,int8@transformers", "--trials", "2"),
        *("--prompts", prompts, "--expected", expected, "--report", report, "--plot", plot),
    )
    assert ended.returncode == 0, ended.stderr
    head, *rows = ended.stdout.splitlines()
    assert head.split()[0] == "CANDIDATE"
    assert [row.split()[0] for row in rows] == ["fp32", "int8", "int8@transformers"]
    assert "trial 2 of 2: int8@transformers" in ended.stderr
    found = json.loads(report.read_text())
    assert (found["model"], found["reference"]) == (MODEL.name, "fp32")
    fp32, int8, theirs = found["candidates"]
    assert fp32["agreement_percent"] == 100.0
    for each in (fp32, int8, theirs):
        assert len(each["tokens_per_second_trials"]) == 2
        assert min(each["tokens_per_second_trials"]) <= each["tokens_per_second"]
        assert 90.0 <= each["exact_percent"] < 100.0
        assert 1.0 < each["perplexity"] < 1.2
        assert each["agreement_percent"] > 97.0
        assert each["failed"] == 0
    assert int8["artifact_bytes"] < fp32["artifact_bytes"] / 2
    assert "<svg" in plot.read_text()
    assert json.loads(evaluator.succeed("status", "--json")) == []


def test_a_text_alone_gives_perplexity_and_agreement(evaluator: Console, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Calculate 23 - 9.\nWhich number is larger, 68 or 24?\n" * 20)
    flags = ("--candidates", "int8,int4", "--reference", "int8", "--text", text, "--json")
    int8, int4 = json.loads(evaluator.succeed("evaluate", MODEL, *flags))["candidates"]
    assert int8["agreement_percent"] == 100.0 > int4["agreement_percent"] > 80.0
    assert int8["perplexity"] != int4["perplexity"]
    assert int8["tokens_per_second"] is int8["exact_percent"] is None


def test_a_quantized_model_is_measured_beside_the_full_one(
    evaluator: Console, prompts: Path, expected: Path
) -> None:
    evaluator.succeed("model", "add", MODEL, "--weights", "int8")
    flags = (MODEL.name, "--weights", "int4", "--prompts", prompts, "--expected", expected)
    made = json.loads(evaluator.succeed("model", "quantize", *flags, "--json"))
    assert (made["name"], made["weights"]) == (MODEL.name, "int4")
    assert made["evaluation"]["reference"] == "bf16"
    bf16, int4 = made["evaluation"]["candidates"]
    assert int4["artifact_bytes"] == made["bytes"] < bf16["artifact_bytes"]
    assert bf16["agreement_percent"] == 100.0 >= int4["agreement_percent"] > 97.0
    assert int4["perplexity"] != bf16["perplexity"]
    assert len(int4["tokens_per_second_trials"]) == 3
    head, full, quantized = evaluator.succeed("model", "quantize", *flags).splitlines()
    assert (full.split()[0], quantized.split()[0]) == ("bf16", "int4")
    assert len(head.split()) == 8


def test_nothing_is_quantized_when_its_files_cannot_be_read(evaluator: Console) -> None:
    flags = (MODEL.name, "--weights", "fp32", "--text", "missing.txt")
    assert_one_sentence(evaluator.call("model", "quantize", *flags), "missing.txt")


def test_requests_for_another_model_measure_nothing(
    evaluator: Console, prompts: Path, expected: Path
) -> None:
    evaluator.succeed("model", "add", MODEL, "--name", "other", "--weights", "int8")
    flags = ("--candidates", "int8", "--prompts", prompts, "--expected", expected)
    ended = evaluator.call("evaluate", "other", *flags)
    assert ended.returncode == 2
    assert "is refused: `nightshift run`" in ended.stderr.splitlines()[-1]
    assert "trial" not in ended.stderr


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ((), "nothing to measure"),
        (("--text", "missing.txt"), "missing.txt"),
        (("--prompts", PROMPTS, "--candidates", "int3"), "int3"),
        (("--prompts", PROMPTS, "--candidates", "int8@transformers:bf16"), "after @ipex also"),
        (("--prompts", PROMPTS, "--candidates", "int8@ipex:fp8"), ":none|fp16|bf16|int8"),
        (("--prompts", PROMPTS, "--candidates", "int8,int8"), "twice"),
        (("--prompts", PROMPTS, "--candidates", "int8", "--reference", "bf16"), "bf16"),
        (("--prompts", PROMPTS, "--plot", "plot.txt"), ".svg"),
        (("--prompts", PROMPTS, "--expected", PROMPTS), "answer"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_sentence(
    evaluator: Console, flags: tuple[str | Path, ...], reason: str
) -> None:
    ended = evaluator.call("evaluate", MODEL, *flags)
    assert ended.returncode == 2
    assert_one_sentence(ended, reason)


def test_a_candidate_decides_the_backend_and_its_precision() -> None:
    texts = ["int4", "int8@transformers", "int8@ipex", "int8@ipex:fp16"]
    candidates = parse_candidates(",".join(texts))
    assert [str(each) for each in candidates] == texts
    settings = load_settings({"NIGHTSHIFT_BACKEND": "ipex", "NIGHTSHIFT_IPEX_LOWP": "none"})
    mine = [each.settings(settings) for each in candidates]
    assert [(each.backend, each.ipex_lowp) for each in mine] == [
        (BackendName.NATIVE, None),
        (BackendName.TRANSFORMERS, None),
        (BackendName.IPEX, Lowp.NONE),
        (BackendName.IPEX, Lowp.FP16),
    ]


def test_an_unknown_model_says_how_to_add_it(evaluator: Console, prompts: Path) -> None:
    ended = evaluator.call("evaluate", "nope", "--prompts", prompts)
    assert_one_sentence(ended, "nightshift model add")
