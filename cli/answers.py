"""Answers in files: those that a run wrote, and those that somebody expects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.errors import InputError


def read_expected(path: Path) -> dict[str, str]:
    """Expected answers by custom_id, from lines of {"custom_id": …, "answer": …}.

    Raises InputError for a file that cannot be read or has another shape.
    """
    expected = {}
    for number, line in enumerate(_objects(path), start=1):
        custom_id, answer = line.get("custom_id"), line.get("answer")
        if not isinstance(custom_id, str) or not isinstance(answer, str):
            raise InputError(
                f'{path}, line {number}: give {{"custom_id": "…", "answer": "…"}}, both texts'
            )
        expected[custom_id] = answer.strip()
    if not expected:
        raise InputError(f"{path} has no expected answers")
    return expected


def read_answers(path: Path) -> dict[str, str]:
    """The text of every request's first choice, by custom_id, from an output file of a run."""
    return {str(line["custom_id"]): _text(line) for line in _objects(path)}


def _text(line: dict[str, Any]) -> str:
    choice = line["response"]["body"]["choices"][0]
    text: str = choice["text"] if "text" in choice else choice["message"]["content"]
    return text.strip()


def _objects(path: Path) -> Iterator[dict[str, Any]]:
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
