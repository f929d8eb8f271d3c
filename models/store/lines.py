"""The lines of an input file as rows: requests, and results of those that are refused at once.

Each function works inside the caller's transaction. Must not know files or formats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, insert

from models.clock import db_now
from models.generation import ChatPrompt
from models.store.prompts import prefix_key, prompt_chars, prompt_value
from models.store.rows import no_result, refusal_columns, storable
from models.store.views import BatchError
from models.tables import requests, results
from models.wire.lines import AcceptedLine, Line, RefusedLine

_LINES_PER_INSERT: Final = 1000
_CHARS_PER_INSERT: Final = 256 << 10  # others wait for a write, not for a file
_CHARS_PER_PART: Final = 100  # a turn or a token's id takes memory, however short it is
_MAX_ERRORS: Final = 100  # kept of a batch that failed validation
_NOT_JSON: Final = "invalid_json_line"


@dataclass(slots=True)
class Tally:
    """What was streamed in so far."""

    accepted: int = 0
    refused: list[int] = field(default_factory=list)  # their numbers
    not_json: int = 0
    errors: list[BatchError] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All lines; the number of the next one."""
        return self.accepted + len(self.refused)

    @property
    def is_hopeless(self) -> bool:
        """Whether no line at all was JSON: the file is something else."""
        return self.not_json == self.total

    def count(self, line: Line) -> None:
        """Add one line."""
        if isinstance(line, AcceptedLine):
            self.accepted += 1
            return
        refusal = line.refusal
        self.refused.append(self.total)
        self.not_json += refusal.code == _NOT_JSON
        if len(self.errors) < _MAX_ERRORS:
            error = BatchError(
                code=refusal.code,
                message=storable(refusal.message),
                param=refusal.param,
                line=line.line_number,
            )
            self.errors.append(error)


def grouped(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """A bounded number of lines at a time: a file never lies in memory as a whole."""
    group: list[Line] = []
    n_chars = 0
    for line in lines:
        group.append(line)
        n_chars += _weight(line)
        if len(group) >= _LINES_PER_INSERT or n_chars >= _CHARS_PER_INSERT:
            yield group
            group, n_chars = [], 0
    if group:
        yield group


def insert_lines(connection: Connection, batch_id: str, first: int, lines: list[Line]) -> None:
    """Store lines as the requests `first`, `first` + 1, …; refused ones get their results."""
    request_rows: list[dict[str, Any]] = []
    result_rows: list[dict[str, Any]] = []
    for idx, line in enumerate(lines, first):
        key = {"batch_id": batch_id, "idx": idx}
        if isinstance(line, AcceptedLine):
            request_rows.append(key | _accepted_row(line))
        else:
            request_rows.append(key | _refused_row(line))
            result_rows.append(no_result() | key | refusal_columns(line.refusal))
    connection.execute(insert(requests), request_rows)
    if result_rows:
        at_once = {"epoch": 0, "attempt": 0, "created_at": db_now()}
        connection.execute(insert(results).values(at_once), result_rows)


def _weight(line: Line) -> int:
    """How much of the memory that a group may take, in characters of prompts."""
    if not isinstance(line, AcceptedLine):
        return len(line.refusal.message)
    params, prompt = line.params, line.prompt
    n_parts = len(prompt.messages) if isinstance(prompt, ChatPrompt) else 0
    n_parts += len(params.stop_token_ids) + len(params.logit_bias or ())
    return prompt_chars(prompt) + _CHARS_PER_PART * n_parts


def _accepted_row(line: AcceptedLine) -> dict[str, Any]:
    return {
        "line_number": line.line_number,
        "accepted": True,
        "custom_id": line.custom_id,
        "prompt_kind": line.prompt.kind,
        "prompt": prompt_value(line.prompt),
        "params": line.params.model_dump(mode="json", exclude_defaults=True),
        "prefix_key": prefix_key(line.prompt),
        "prompt_chars": prompt_chars(line.prompt),
    }


def _refused_row(line: RefusedLine) -> dict[str, Any]:
    return {
        "line_number": line.line_number,
        "accepted": False,
        "custom_id": None if line.custom_id is None else storable(line.custom_id),
        "prompt_kind": None,
        "prompt": None,
        "params": None,
        "prefix_key": None,
        "prompt_chars": None,
    }
