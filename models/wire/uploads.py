"""Reading an uploaded file: JSON Lines from a stream, whose first request names the batch's model.

It knows nothing of the database or of HTTP.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO

from models.errors import InputFileError, RequestRefused
from models.wire import refusals
from models.wire.endpoints import Endpoint
from models.wire.input import is_jsonl, parse_records
from models.wire.limits import InputLimits
from models.wire.lines import Line
from models.wire.raw_lines import open_input
from models.wire.requests import Record, RequestParser, RequestRules
from models.wire.text_files import split_jsonl


class UploadedRequests:
    """The requests of one uploaded file; read once, in constant memory.

    `model_name` is what the first request that is JSON asks for, None when it asks for none or
    when there is none among as many lines as a file may have.
    Raises InputFileError while it is read.
    """

    def __init__(self, stream: IO[bytes], limits: InputLimits, *, name: str) -> None:
        self._limits = limits
        self._name = name
        self._records = split_jsonl(stream, limits, name=name)
        self.model_name, self._read = _peek(islice(self._records, limits.max_requests))

    def check(self) -> None:
        """Raise InputFileError when it holds no request, or not one line is a JSON object."""
        if not self._read:
            message = f"{self._name} has no line that is not blank"
            raise InputFileError(message, code="empty_file")
        first = self._read[0]
        if isinstance(self._read[-1].content, RequestRefused):
            raise InputFileError(
                f"no line of {self._name} is a JSON object; give one request per line "
                f"(line {first.line_number}: {first.content})",
                code=refusals.INVALID_LINE,
                line=first.line_number,
            )

    def lines(self, model_name: str, endpoint: Endpoint | None) -> Iterator[Line]:
        """One line per request, checked against the batch's model and endpoint.

        Without an endpoint the first request decides.
        """
        parser = RequestParser(RequestRules(model_name=model_name, endpoint=endpoint))
        records = chain(self._read, self._records)
        return parse_records(records, parser, self._limits, name=self._name)


def is_uploadable(path: Path, limits: InputLimits, model_names: Container[str]) -> bool:
    """Whether the file can be uploaded as it lies there, to run with the model of these names."""
    if not is_jsonl(path):
        return False
    with open_input(path) as stream:
        return UploadedRequests(stream, limits, name=path.name).model_name in model_names


def _peek(records: Iterator[Record]) -> tuple[str | None, list[Record]]:
    """The model that the first JSON object names, and the records up to it."""
    read: list[Record] = []
    for record in records:
        read.append(record)
        if not isinstance(record.content, RequestRefused):
            return _named_model(record.content.get("body", record.content)), read
    return None, read


def _named_model(body: object) -> str | None:
    name = body.get("model") if isinstance(body, dict) else None
    return name if isinstance(name, str) else None
