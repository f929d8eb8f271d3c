"""Writes what the demo model can be calibrated on: chats it was trained on, and their answers.

    python -m tools.write_calibration FOLDER

makes calibration.jsonl and calibration-answers.jsonl there, the same bytes at every call.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.demo_prompts import batch_line
from tools.demo_tasks import Split, draw_chat

COUNT = 600
SEED = 11


def write_calibration(folder: Path) -> None:
    """Write both files; no instance in them is one of examples/prompts.jsonl."""
    rng = random.Random(SEED)
    chats = [draw_chat(rng, split=Split.TRAINING) for _ in range(COUNT)]
    names = [f"calibration-{number:03}" for number in range(COUNT)]
    pairs = list(zip(names, chats, strict=True))
    _write(folder / "calibration.jsonl", [batch_line(name, chat) for name, chat in pairs])
    answers = [{"custom_id": name, "answer": chat.answer} for name, chat in pairs]
    _write(folder / "calibration-answers.jsonl", answers)


def _write(path: Path, lines: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Write them into the folder of the command line."""
    parser = argparse.ArgumentParser(description="Write the demo model's calibration texts.")
    parser.add_argument("folder", type=Path)
    write_calibration(parser.parse_args().folder)


if __name__ == "__main__":
    main()
