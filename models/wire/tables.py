"""Input files of rows: CSV and Parquet with a prompt column.

Beside `prompt` (or `messages`, as JSON) a table may have `custom_id` or `id` and decoding
parameters; an empty cell is a field that is not given.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.errors import InputFileError, RequestRefused
from models.spelling import did_you_mean
from models.wire import refusals
from models.wire.decoding import parameter_names
from models.wire.limits import InputLimits
from models.wire.raw_lines import file_errors, read_raw_lines, reason_of, too_many_bytes
from models.wire.requests import Record
from models.wire.strict_json import StrictJsonError, check_value, loads, shown
from models.wire.text_files import line_too_long

_TEXT_COLUMNS = ("prompt", "custom_id", "id", "model", "user")
_BATCH_ROWS = 256


def read_csv(path: Path, limits: InputLimits) -> Iterator[Record]:
    """One record per row, numbered by the line on which the row starts; the header is line 1.

    Raises InputFileError for columns that cannot be used and where quoting is broken, because no
    row after that place can be trusted.
    """
    csv.field_size_limit(limits.max_line_bytes)  # the module has only one, for the whole process
    lines = _CsvLines(path, limits)
    reader = csv.reader(lines, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_columns(path, header)
        started = reader.line_num + 1
        for cells in reader:
            lines.row_bytes = 0
            if cells:
                yield Record(started, _checked(_csv_row, header, cells))
            started = reader.line_num + 1
    except csv.Error as exc:
        line = reader.line_num
        raise InputFileError(f"{path} is no CSV at line {line}: {exc}", line=line) from exc


def read_parquet(path: Path, limits: InputLimits) -> Iterator[Record]:
    """One record per row, numbered from 1; reads a few hundred rows at a time.

    Raises InputFileError for a damaged file and for columns that cannot be used.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with file_errors(path), parquet.ParquetFile(path) as table:
            _check_columns(path, table.schema_arrow.names)
            groups = (table.metadata.row_group(n) for n in range(table.metadata.num_row_groups))
            if sum(group.total_byte_size for group in groups) > limits.max_file_bytes:
                raise too_many_bytes(str(path), limits)
            rows = (row for part in table.iter_batches(_BATCH_ROWS) for row in part.to_pylist())
            for number, row in enumerate(rows, 1):
                yield Record(number, _checked(_parquet_row, row, limits))
    except pyarrow.ArrowException as exc:
        raise InputFileError(f"{path} cannot be read as Parquet ({reason_of(exc)})") from exc


class _CsvLines:
    """The lines of a CSV file; those of one row together obey the limit of a line.

    Whoever takes rows of them sets `row_bytes` to 0 after each.
    """

    def __init__(self, path: Path, limits: InputLimits) -> None:
        self._path = path
        self._limits = limits
        self._lines = read_raw_lines(path, limits)
        self.row_bytes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        data = line.data
        self.row_bytes += len(data or b"")
        if data is None or self.row_bytes > self._limits.max_line_bytes + len(b"\r\n"):
            reason = line_too_long(self._limits)
            where = f"line {line.number} of {self._path} ends a row that"
            raise InputFileError(f"{where} is {reason}", code=reason.code, line=line.number)
        # What is not UTF-8 becomes lone surrogates, which are refused with the row they are in.
        return data.decode("utf-8", errors="surrogateescape")


def _check_columns(path: Path, names: list[str]) -> None:
    if not any(names):
        raise InputFileError(f"{path} has no header; name a column prompt", code="empty_file")
    known = (*_TEXT_COLUMNS, "messages", *parameter_names())
    for name in names:
        if name not in known or names.count(name) > 1:
            problem = "twice" if name in known else f"that is no field{did_you_mean(name, known)}"
            raise InputFileError(
                f"{path} has a column {shown(name)} {problem.removesuffix('?')}; keep one prompt "
                "(or messages) column, custom_id and decoding parameters",
                code=refusals.UNSUPPORTED,
                line=1,
            )
    if "prompt" not in names and "messages" not in names:
        raise InputFileError(
            f"{path} has no column prompt or messages, only {', '.join(names)}",
            code=refusals.MISSING,
            line=1,
        )


def _checked(read: Any, *arguments: object) -> Mapping[str, object] | RequestRefused:
    """The row's fields, or the reason why it has none."""
    try:
        fields: dict[str, object] = read(*arguments)
        check_value(fields)
    except RequestRefused as exc:
        return exc
    except StrictJsonError as exc:
        return refusals.bad_line(str(exc))
    return fields


def _csv_row(header: list[str], cells: list[str]) -> dict[str, object]:
    if len(cells) != len(header):
        raise refusals.bad_line(f"the row has {len(cells)} cells, the header has {len(header)}")
    given = {name: cell for name, cell in zip(header, cells, strict=True) if cell != ""}
    return {name: _csv_cell(name, cell) for name, cell in given.items()}


def _csv_cell(name: str, cell: str) -> object:
    """The value of a cell: JSON, except where it is a text anyway."""
    try:
        data = cell.encode()
    except UnicodeEncodeError as exc:
        raise refusals.bad_field("", name, "is not UTF-8", code=refusals.INVALID_LINE) from exc
    if name in _TEXT_COLUMNS or (name == "stop" and not cell.startswith("[")):
        return cell
    try:
        return loads(data.lower() if cell in ("True", "False") else data)
    except StrictJsonError as exc:
        reason = f"is {shown(cell)}, it should be a number, true, false or JSON"
        raise refusals.bad_field("", name, reason, code=refusals.INVALID_TYPE) from exc


def _parquet_row(row: dict[str, Any], limits: InputLimits) -> dict[str, object]:
    fields = {name: value for name, value in row.items() if value is not None}
    if sum(len(value) for value in fields.values() if isinstance(value, str)) > (
        limits.max_line_bytes
    ):
        raise line_too_long(limits)
    if isinstance(messages := fields.get("messages"), str):
        try:
            fields["messages"] = loads(messages.encode())
        except StrictJsonError as exc:
            raise refusals.bad_field("", "messages", f"is not JSON: {exc}") from exc
    return fields
