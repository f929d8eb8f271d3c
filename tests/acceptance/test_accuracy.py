"""How right the demo model's answers are with each kind of weights, on prompts it never saw."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from models.model_key import Weights
from tests.cli.console import Console
from tests.cli.demo import EXPECTED, MODEL, PROMPTS, read_lines


def accuracy_percent(output: Path) -> float:
    """Share of the held-out prompts that were answered exactly."""
    expected = {line["custom_id"]: line["answer"] for line in read_lines(EXPECTED)}
    right = sum(answer_of(line) == expected[line["custom_id"]] for line in read_lines(output))
    return 100 * right / len(expected)


def answer_of(line: Mapping[str, Any]) -> str:
    content: str = line["response"]["body"]["choices"][0]["message"]["content"]
    return content.strip()


@pytest.fixture(scope="module")
def accuracies(tmp_path_factory: pytest.TempPathFactory) -> dict[Weights, float]:
    """Accuracy in percent by weights; every model is quantized and run by the command itself."""
    folder = tmp_path_factory.mktemp("accuracy")
    console = Console(folder / "home", {"NIGHTSHIFT_THREADS": "1"})
    measured: dict[Weights, float] = {}
    for weights in Weights:
        output = folder / f"{weights}.jsonl"
        ended = console.run("run", PROMPTS, "-o", output, "--model", MODEL, "--weights", weights)
        assert ended.returncode == 0, ended.stderr
        measured[weights] = accuracy_percent(output)
    return measured


def test_quantizing_to_int8_costs_at_most_one_point(
    accuracies: dict[Weights, float], capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        sys.stdout.write("\naccuracy on examples/expected.jsonl:\n")
        for weights, percent in accuracies.items():
            sys.stdout.write(f"  {weights:5} {percent:5.1f} %\n")
    close = [accuracies[weights] for weights in (Weights.FP32, Weights.BF16, Weights.INT8)]
    assert max(close) - min(close) <= 1.0


def test_the_demo_model_answers_nine_of_ten_prompts_exactly(
    accuracies: dict[Weights, float],
) -> None:
    assert accuracies[Weights.FP32] >= 90.0
