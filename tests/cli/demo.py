"""The demo model and its prompts, and how a home folder comes to know the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.cli.console import Console

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODEL = EXAMPLES / "demo-model"
PROMPTS = EXAMPLES / "prompts.jsonl"
EXPECTED = EXAMPLES / "expected.jsonl"


def console_sharing_models(home: Path, models_home: Path) -> Console:
    """A home folder of its own with the other's models and kernels, which take seconds to make."""
    home.mkdir()
    for name in ("registry", "kernels"):
        shared = models_home / name
        shared.mkdir(exist_ok=True)
        (home / name).symlink_to(shared)
    return Console(home, {"NIGHTSHIFT_THREADS": "1"})


def read_lines(path: Path) -> list[dict[str, object]]:
    """The JSON lines of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path, lines: Iterator[Mapping[str, object]]) -> Path:
    """Write JSON lines and return the path."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def long_requests(count: int) -> Iterator[dict[str, object]]:
    """Requests of 20 to 99 tokens each, so that they end one after the other."""
    for number in range(count):
        yield {
            "custom_id": f"r-{number}",
            "prompt": f"What is {number} + {number % 7}?",
            "max_tokens": 20 + number * 37 % 80,
            "ignore_eos": True,
        }
