"""A multipart upload, parsed while it arrives: the file goes on in pieces, fields are kept.

Must not know where the file goes. The grammar is python-multipart's.
"""

from __future__ import annotations

from collections.abc import Callable

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import (
    MAX_BOUNDARY_LENGTH,
    MultipartParser,
    parse_options_header,
)

from api.problems import Problem

FILE_FIELD = "file"
MAX_FIELDS = 8
MAX_FIELD_BYTES = 1024
MAX_NAME_CHARACTERS = 255


class UploadParser:
    """Feed it the body with `write`, then call `end`; the file's bytes go to `sink`.

    Raises Problem for a body that is not such an upload.
    """

    def __init__(self, content_type: str, sink: Callable[[bytes], None]) -> None:
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None
        self._sink = sink
        self._header_name, self._header_value = bytearray(), bytearray()
        self._disposition = b""
        self._name = ""
        self._field = bytearray()
        self._ended = False
        self._parser = MultipartParser(
            _boundary(content_type),
            {
                "on_part_begin": self._begin,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._open,
                "on_part_data": self._add_data,
                "on_part_end": self._close,
                "on_end": self._end,
            },
        )

    def write(self, piece: bytes) -> None:
        """Parse the next piece of the body."""
        try:
            self._parser.write(piece)
        except MultipartParseError as exc:
            raise _malformed(str(exc)) from exc

    def end(self) -> None:
        """The body is over: see that it was whole and had a file."""
        if not self._ended:
            raise _malformed("it ends before its last boundary")
        if self.file_name is None:
            raise Problem(400, "the upload has no file: give it as `file`", "missing", FILE_FIELD)

    def _begin(self) -> None:
        self._disposition = b""

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _open(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = _text(options.get(b"name", b""))
        if not self._name:
            raise _malformed("a part has no name")
        if self._name == FILE_FIELD:
            if self.file_name is not None:
                raise _malformed("it has more than one file")
            self.file_name = _text(options.get(b"filename", b"upload.jsonl"))[:MAX_NAME_CHARACTERS]
        elif self._name in self.fields or len(self.fields) >= MAX_FIELDS:
            raise _malformed(f"it gives a field twice, or more than {MAX_FIELDS} fields")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE_FIELD:
            self._sink(data[start:end])
            return
        self._field += data[start:end]
        if len(self._field) > MAX_FIELD_BYTES:
            raise _malformed(f"a field has more than {MAX_FIELD_BYTES} bytes")

    def _close(self) -> None:
        if self._name == FILE_FIELD:
            return
        self.fields[self._name] = _text(bytes(self._field))
        self._field.clear()

    def _end(self) -> None:
        self._ended = True


def _text(value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise _malformed("a field is not UTF-8") from exc
    if "\0" in text:
        raise _malformed("a field holds a NUL character")
    return text


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= MAX_BOUNDARY_LENGTH:
        most = MAX_BOUNDARY_LENGTH
        reason = f"send the file as multipart/form-data with a boundary of 1 to {most} bytes"
        raise Problem(415, reason, "unsupported_media_type")
    return boundary


def _malformed(reason: str) -> Problem:
    return Problem(400, f"the upload cannot be read: {reason}", "invalid_multipart")
