"""Input files of lines: JSONL, and plain text with one prompt a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from models.errors import InputFileError, RequestRefused
from models.wire import refusals
from models.wire.limits import InputLimits
from models.wire.raw_lines import RawLine, read_raw_lines, split_raw_lines
from models.wire.requests import Record
from models.wire.strict_json import StrictJsonError, check_value, loads, shown

Reader = Callable[[bytes], dict[str, object]]


def read_jsonl(path: Path, limits: InputLimits) -> Iterator[Record]:
    """One record per line that is not blank.

    Raises InputFileError, before the first record, when no line at all is a JSON object.
    """
    _require_one(path, limits, _json_object, wanted="a JSON object; give one request per line")
    return _records(path, limits, _json_object)


def read_text(path: Path, limits: InputLimits) -> Iterator[Record]:
    """One record with a prompt per line that is not blank.

    Raises InputFileError, before the first record, when no line at all is UTF-8 text.
    """
    _require_one(path, limits, _text_prompt, wanted="UTF-8 text; give one prompt per line")
    return _records(path, limits, _text_prompt)


def split_jsonl(stream: IO[bytes], limits: InputLimits, *, name: str) -> Iterator[Record]:
    """The same of an open stream, also when no line is a JSON object."""
    return _parsed(split_raw_lines(stream, limits, name=name), limits, _json_object)


def _records(path: Path, limits: InputLimits, read: Reader) -> Iterator[Record]:
    return _parsed(read_raw_lines(path, limits), limits, read)


def _parsed(lines: Iterator[RawLine], limits: InputLimits, read: Reader) -> Iterator[Record]:
    for line in lines:
        if not line.is_blank:
            yield Record(line.number, _content(line, limits, read))


def _content(
    line: RawLine, limits: InputLimits, read: Reader
) -> dict[str, object] | RequestRefused:
    if line.data is None:
        return line_too_long(limits)
    try:
        return read(line.data)
    except StrictJsonError as exc:
        return refusals.bad_line(str(exc))


def line_too_long(limits: InputLimits) -> RequestRefused:
    """The refusal of a line that is over the limit."""
    reason = f"longer than {limits.max_line_bytes} bytes; shorten it, or raise "
    return refusals.bad_line(f"{reason}NIGHTSHIFT_MAX_LINE_BYTES", code="line_too_long")


def _require_one(path: Path, limits: InputLimits, read: Reader, *, wanted: str) -> None:
    """Look for the first usable line; it is nearly always the first of the file."""
    first_problem, first_line = "", 0
    for record in _records(path, limits, read):
        if not isinstance(record.content, RequestRefused):
            return
        if not first_line:
            first_problem, first_line = str(record.content), record.line_number
    if not first_line:
        raise InputFileError(f"{path} has no line that is not blank", code="empty_file")
    raise InputFileError(
        f"no line of {path} is {wanted} (line {first_line}: {first_problem})",
        code=refusals.INVALID_LINE,
        line=first_line,
    )


def _json_object(data: bytes) -> dict[str, object]:
    value = loads(data.strip())
    if not isinstance(value, dict):
        raise StrictJsonError(f"{shown(value)} is not a JSON object")
    return value


def _text_prompt(data: bytes) -> dict[str, object]:
    try:
        prompt = data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as exc:
        raise StrictJsonError(f"byte {exc.start + 1} is not UTF-8") from exc
    check_value(prompt)
    return {"prompt": prompt}
