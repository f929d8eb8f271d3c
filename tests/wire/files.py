"""Input files for the tests, and the reader as they call it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.wire.input import read_lines
from models.wire.lines import AcceptedLine, Line, RefusedLine

MODEL = "demo:int8"
MESSAGES = [{"role": "user", "content": "hi"}]


def chat_line(custom_id: str = "r-1", /, **fields: object) -> dict[str, object]:
    """A request in OpenAI's form with `fields` in its body."""
    return openai_line("/v1/chat/completions", custom_id, {"messages": MESSAGES, **fields})


def completion_line(custom_id: str = "r-1", /, **fields: object) -> dict[str, object]:
    """A /v1/completions request in OpenAI's form with `fields` in its body."""
    return openai_line("/v1/completions", custom_id, {"prompt": "once", **fields})


def openai_line(url: str, custom_id: str, body: Mapping[str, object]) -> dict[str, object]:
    """A request in OpenAI's form."""
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def write(path: Path, *lines: object) -> Path:
    """Write one line each: bytes as they are, everything else as JSON."""
    data = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"".join(line + b"\n" for line in data))
    return path


def read(path: Path, **options: Any) -> list[Line]:
    """All lines of the file."""
    return list(read_lines(path, **{"model_name": MODEL, **options}))


def read_one(folder: Path, line: object, **options: Any) -> Line:
    """The line that one JSONL line becomes, in a file with an accepted line after it."""
    after = chat_line("after")
    if isinstance(line, dict) and line.get("url") == "/v1/completions":
        after = completion_line("after")
    first, last = read(write(folder / "in.jsonl", line, after), **options)
    assert isinstance(last, AcceptedLine)
    return first


def accepted(line: Line) -> AcceptedLine:
    """The line, which is accepted."""
    assert isinstance(line, AcceptedLine), line
    return line


def refused(line: Line) -> RefusedLine:
    """The line, which is refused."""
    assert isinstance(line, RefusedLine), line
    return line
