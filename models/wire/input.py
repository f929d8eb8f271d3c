"""Reading an input file: the one entry for every form of it, in constant memory.

It knows files and requests, nothing of the database. docs/input-formats.md shows the forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from models.errors import InputError, InputFileError
from models.wire.decoding import check_defaults
from models.wire.endpoints import Endpoint
from models.wire.limits import InputLimits
from models.wire.lines import Line
from models.wire.raw_lines import check_input_file, file_digest, file_errors, open_input
from models.wire.requests import Record, RequestParser, RequestRules
from models.wire.strict_json import StrictJsonError, check_value
from models.wire.tables import read_csv, read_parquet
from models.wire.text_files import read_jsonl, read_text

__all__ = ["InputLimits", "RequestRules", "file_digest", "read_lines"]

Source = Callable[[Path, InputLimits], Iterator[Record]]

_BY_SUFFIX: Mapping[str, Source] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_jsonl,
    ".txt": read_text,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
_PARQUET_MAGIC = b"PAR1"


def read_lines(
    path: Path,
    *,
    model_name: str | None,
    defaults: Mapping[str, object] | None = None,
    limits: InputLimits | None = None,
    as_completion: bool = False,
    system: str | None = None,
    endpoint: Endpoint | None = None,
) -> Iterator[Line]:
    """One Line per request of the file, in its order; see RequestRules for the options.

    Raises InputFileError at the call when the file cannot be read or no line of it can be used,
    and while iterating when it turns out to be over a limit. Raises InputError for options that
    contradict each other or a bad default.
    """
    if system is not None and as_completion:
        raise InputError("a system message needs chat; leave out either --system or --completions")
    _check_system(system)
    rules = RequestRules(
        model_name=model_name,
        defaults=check_defaults(defaults or {}),
        endpoint=endpoint,
        as_completion=as_completion,
        system=system,
    )
    limits = limits or InputLimits()
    return parse_records(_records(path, limits), RequestParser(rules), limits, name=str(path))


def _check_system(system: str | None) -> None:
    """A flag may hold what no file can."""
    try:
        check_value(system)
    except StrictJsonError as exc:
        raise InputError(f"the system message cannot be used: {exc}") from exc


def is_jsonl(path: Path) -> bool:
    """Whether it is JSON Lines that are not packed."""
    return path.suffix.lower() != ".gz" and _source(path) is read_jsonl


def _records(path: Path, limits: InputLimits) -> Iterator[Record]:
    """The file's records, at least one; what is wrong with the file as a whole is raised here."""
    check_input_file(path, limits)
    records = _source(path)(path, limits)
    first = next(records, None)
    if first is None:
        raise InputFileError(f"{path} holds no request", code="empty_file")
    return chain([first], records)


def parse_records(
    records: Iterator[Record], parser: RequestParser, limits: InputLimits, *, name: str
) -> Iterator[Line]:
    """The line of each record; raises InputFileError, which calls the file `name`, for too many."""
    for count, record in enumerate(records, 1):
        if count > limits.max_requests:
            raise InputFileError(
                f"{name} has more than {limits.max_requests} requests; split it, or raise "
                "NIGHTSHIFT_MAX_FILE_REQUESTS",
                code="file_too_large",
                line=record.line_number,
            )
        yield parser.parse(record)


def _source(path: Path) -> Source:
    """The reader that the name's ending asks for, else the one that the contents look like."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    if suffixes and suffixes[-1] in _BY_SUFFIX:
        return _BY_SUFFIX[suffixes[-1]]
    with file_errors(path), open_input(path) as stream:
        start = stream.read(64)
    if start.startswith(_PARQUET_MAGIC):
        return read_parquet
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return read_jsonl
    raise InputFileError(
        f"the kind of {path} is unknown; name it .jsonl, .txt, .csv or .parquet after what it holds"
    )
