"""Any bytes as an input file and as an upload, read in every way, with all that must then hold.

`check_input` is the one entry: the hypothesis tests, the kept corpus and the coverage-guided run
all call it. It raises AssertionError, or whatever the reader raised and should not have.
"""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from models.errors import InputFileError
from models.generation import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from models.params import MAX_INT, DecodingParams
from models.store.files import as_stream
from models.wire.endpoints import Endpoint
from models.wire.input import InputLimits, read_lines
from models.wire.lines import MAX_CUSTOM_ID_BYTES, AcceptedLine, Line, RefusedLine
from models.wire.raw_lines import split_raw_lines
from models.wire.upload_lines import upload_pieces
from models.wire.uploads import UploadedRequests

MODEL: Final = "demo:int8"
LIMITS: Final = InputLimits(max_requests=200, max_file_bytes=64 << 10, max_line_bytes=512)
_BOM: Final = b"\xef\xbb\xbf"
_CODE: Final = re.compile(r"[a-z0-9_]{1,64}")
_FILE_CODES: Final = {
    "empty_file",
    "file_too_large",
    "invalid_file",
    "invalid_json_line",
    "line_too_long",
    "missing_required_parameter",
    "unsupported_parameter",
}
_PIECE_SIZES: Final = (1, 7, 4096)


def check_input(data: bytes, folder: Path) -> None:
    """Read the bytes in every way; `folder` holds the files meanwhile."""
    lines = check_jsonl(data, folder)
    packed = _read(_write(folder, "in.jsonl.gz", gzip.compress(data, 1)))
    assert packed == lines or not data
    check_upload(data)
    for name in ("in.txt", "in.csv", "in.parquet", "in.jsonl.gz", "in"):
        found = _read(_write(folder, name, data))
        is_text = name in ("in.txt", "in.csv")
        check_lines(found, n_lines=data.count(b"\n") + 1 if is_text else None)
        if name != "in.parquet":
            check_written_again(found)
    check_plain_text(data, folder)


def check_jsonl(data: bytes, folder: Path) -> list[Line] | None:
    """The lines of the file as JSON Lines; None when the file as a whole is refused."""
    lines = _read(_write(folder, "in.jsonl", data))
    numbers = [number for number, _ in expected_lines(data)]
    if lines is not None:
        assert [line.line_number for line in lines] == numbers
    check_lines(lines, n_lines=len(data.split(b"\n")))
    check_written_again(lines)
    return lines


def check_plain_text(data: bytes, folder: Path) -> None:
    """Each line of a text that is accepted is its own prompt."""
    path = _write(folder, "in.txt", data)
    found = _read(path, as_completion=True)
    texts = {number: raw.rstrip(b"\r\n") for number, raw in expected_lines(data)}
    if found is not None:
        assert [line.line_number for line in found] == list(texts)
    for line in found or ():
        if isinstance(line, AcceptedLine):
            assert line.prompt == TextPrompt(text=texts[line.line_number].decode())


def expected_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line that is to be read, without its end: the plainest way."""
    for number, raw in enumerate(data.split(b"\n"), 1):
        is_long = len(raw.removesuffix(b"\r")) > LIMITS.max_line_bytes
        text = raw.removeprefix(_BOM) if number == 1 else raw
        if is_long or text.strip():
            yield number, text


def check_upload(data: bytes) -> None:
    """The same lines, in whatever pieces the bytes come, none of them asked for at once."""
    whole = _upload(_Guarded(data))
    check_lines(whole, n_lines=data.count(b"\n") + 1)
    raw = list(split_raw_lines(io.BytesIO(data), LIMITS, name="upload"))
    assert all(len(line.data or b"") <= LIMITS.max_line_bytes + 2 for line in raw)
    for size in _PIECE_SIZES:
        pieces = (data[start : start + size] for start in range(0, len(data), size))
        stream = as_stream(pieces)
        assert list(split_raw_lines(stream, LIMITS, name="upload")) == raw
        pieces = (data[start : start + size] for start in range(0, len(data), size))
        assert _upload(as_stream(pieces)) == whole


def check_written_again(lines: Sequence[Line] | None) -> None:
    """Written as an upload and read again, they are the same."""
    if not lines:
        return
    data = b"".join(upload_pieces(lines, MODEL))
    endpoints = [line.endpoint for line in lines if isinstance(line, AcceptedLine)]
    endpoint = Endpoint([*endpoints, Endpoint.CHAT][0])
    upload = UploadedRequests(io.BytesIO(data), InputLimits(), name="upload")
    assert list(upload.lines(MODEL, endpoint)) == list(lines)


def check_lines(lines: Sequence[Line] | None, *, n_lines: int | None) -> None:
    """What holds for the lines of any file."""
    if lines is None:
        return
    numbers = [line.line_number for line in lines]
    assert numbers == sorted(set(numbers))
    assert not numbers or numbers[0] >= 1
    assert n_lines is None or not numbers or numbers[-1] <= n_lines
    accepted = [line for line in lines if isinstance(line, AcceptedLine)]
    assert len({line.custom_id for line in accepted}) == len(accepted)
    assert len({line.endpoint for line in accepted}) <= 1
    for line in lines:
        if isinstance(line, AcceptedLine):
            check_accepted(line)
        else:
            check_refused(line)


def check_accepted(line: AcceptedLine) -> None:
    """A request that can be stored, written as JSON and run."""
    assert 1 <= len(line.custom_id.encode()) <= MAX_CUSTOM_ID_BYTES
    assert line.endpoint in set(Endpoint)
    _check_text(line.custom_id)
    check_prompt(line.prompt)
    check_params(line.params)


def check_prompt(prompt: Prompt) -> None:
    """Something to run that a database can hold."""
    if isinstance(prompt, ChatPrompt):
        assert prompt.messages
        for message in prompt.messages:
            _check_text(message.content)
    elif isinstance(prompt, TokenPrompt):
        assert prompt.token_ids
        assert all(type(token) is int and 0 <= token <= MAX_INT for token in prompt.token_ids)
    else:
        _check_text(prompt.text)
    assert type(prompt).model_validate_json(prompt.model_dump_json()) == prompt


def check_params(params: DecodingParams) -> None:
    """The same through JSON, as the store and as the engine process have them."""
    stored = json.dumps(params.model_dump(mode="json", exclude_defaults=True), allow_nan=False)
    assert DecodingParams.model_validate(json.loads(stored)) == params
    assert DecodingParams.model_validate_json(params.model_dump_json()) == params
    for text in params.stop:
        _check_text(text)


def check_refused(line: RefusedLine) -> None:
    """A reason that can be shown anywhere and looked up."""
    refusal = line.refusal
    assert _CODE.fullmatch(refusal.code), refusal
    assert len(line.custom_id or "") <= MAX_CUSTOM_ID_BYTES
    assert len(refusal.message) < 10_000
    for text in (refusal.message, refusal.param, line.custom_id):
        _check_text(text or "")


def _check_text(text: str) -> None:
    assert "\0" not in text
    text.encode()  # no half of a surrogate pair


def _read(path: Path, *, as_completion: bool = False) -> list[Line] | None:
    try:
        return list(read_lines(path, model_name=MODEL, limits=LIMITS, as_completion=as_completion))
    except InputFileError as exc:
        _check_file_error(exc)
        return None


def _upload(stream: IO[bytes]) -> list[Line] | None:
    try:
        upload = UploadedRequests(stream, LIMITS, name="upload")
        upload.check()
        return list(upload.lines(MODEL, None))
    except InputFileError as exc:
        _check_file_error(exc)
        return None


def _check_file_error(exc: InputFileError) -> None:
    assert exc.code in _FILE_CODES, exc.code
    assert str(exc).isprintable()
    assert exc.line is None or exc.line >= 1


def _write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


class _Guarded(io.BytesIO):
    """A stream of which never more than a line is taken into memory."""

    def read(self, *_: object) -> bytes:
        raise AssertionError("the whole stream was asked for")

    def readline(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert 0 < size <= LIMITS.max_line_bytes + 2
        return super().readline(size)
