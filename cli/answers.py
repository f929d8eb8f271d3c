"""Answers in files: those that a run wrote, and those that somebody expects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from models.errors import InputError


def read_expected(path: Path) -> dict[str, str]:
    """Answers by custom_id, from lines of {"custom_id": …, "answer": …} or of an output file.

    Raises InputError for a file that cannot be read or has another shape.
    """
    expected = {}
    for number, line in enumerate(read_objects(path), start=1):
        custom_id, answer = line.get("custom_id"), line.get("answer", _answer_of(line))
        if not isinstance(custom_id, str) or not isinstance(answer, str):
            raise InputError(
                f'{path}, line {number}: give {{"custom_id": "…", "answer": "…"}}, both texts, '
                "or a line of an output file"
            )
        expected[custom_id] = answer.strip()
    if not expected:
        raise InputError(f"{path} has no answers")
    return expected


def count_exact(lines: Iterable[Mapping[str, Any]], expected: Mapping[str, str]) -> int:
    """How many of the expected answers are among output lines, but for spaces around them.

    A request's answer is the text of its first choice.
    """
    answers = {str(line["custom_id"]): _text(line) for line in lines}
    return sum(answers.get(custom_id) == answer for custom_id, answer in expected.items())


def _answer_of(line: Mapping[str, Any]) -> str | None:
    """The text of an output line, None for one of another shape."""
    try:
        return _text(line)
    except (AttributeError, IndexError, KeyError, TypeError):
        return None


def _text(line: Mapping[str, Any]) -> str:
    choice = line["response"]["body"]["choices"][0]
    text: str = choice["text"] if "text" in choice else choice["message"]["content"]
    return text.strip()


def read_objects(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects in the lines of a file; raises InputError for anything else."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{path} cannot be read: {exc}") from exc
    for number, line in enumerate(filter(str.strip, lines), start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise InputError(f"{path}, line {number}: not a JSON object")
        yield value
