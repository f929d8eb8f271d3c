"""A file made OpenAI's JSONL for an upload is read by the server as the original is read here."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from pyarrow import parquet

from models.errors import InputFileError
from models.wire.endpoints import Endpoint
from models.wire.input import InputLimits
from models.wire.lines import AcceptedLine, Line
from models.wire.upload_lines import upload_pieces
from models.wire.uploads import UploadedRequests, is_uploadable
from tests.wire.files import (
    MESSAGES,
    MODEL,
    accepted,
    chat_line,
    completion_line,
    openai_line,
    read,
    refused,
    write,
)
from tests.wire.test_input_files import BODIES, FILES, MANY_FILES
from tests.wire.test_refusals import CASES


def uploaded(lines: list[Line]) -> bytes:
    return b"".join(upload_pieces(iter(lines), MODEL))


def read_upload(data: bytes, lines: list[Line]) -> list[Line]:
    """What the server makes of it, in a batch of the endpoint that the submitter tells it."""
    endpoints = [line.endpoint for line in lines if isinstance(line, AcceptedLine)]
    upload = UploadedRequests(io.BytesIO(data), InputLimits(), name="in.jsonl")
    assert upload.model_name == MODEL
    return list(upload.lines(MODEL, Endpoint([*endpoints, Endpoint.CHAT][0])))


def test_of_a_file_without_json_no_more_is_read_than_a_file_may_have() -> None:
    """Else each of a hundred million short lines would be kept until the first good one."""
    stream = io.BytesIO(b"x\n" * 1000)
    upload = UploadedRequests(stream, InputLimits(max_requests=10), name="in.jsonl")
    assert (upload.model_name, stream.tell()) == (None, 20)
    with pytest.raises(InputFileError, match="more than 10 requests"):
        list(upload.lines(MODEL, Endpoint.CHAT))


def assert_the_same(path: Path, **options: Any) -> list[Line]:
    lines = read(path, **options)
    assert read_upload(uploaded(lines), lines) == lines
    return lines


def text_file(folder: Path) -> Path:
    path = folder / "in.txt"
    path.write_bytes(b"\xef\xbb\xbffirst\r\n\r\nsecond\n\xff\nnul \x00\n")
    return path


def csv_file(folder: Path) -> Path:
    path = folder / "in.csv"
    path.write_text(
        'id,prompt,max_tokens,stop,logprobs\na,"two\nlines",8,END,True\nb,c,x,,\nc,too,few\nd,e,,,\n',
        encoding="utf-8",
    )
    return path


def parquet_file(folder: Path) -> Path:
    path = folder / "in.parquet"
    columns = {"prompt": ["a", "", "c"], "custom_id": ["x", "y", "x"], "temperature": [0.5, 1, 2]}
    parquet.write_table(pa.table(columns), path)
    return path


def plain_file(folder: Path) -> Path:
    lines = [
        {"prompt": "a", "colour": 1},
        {"id": 17, "prompt": "b", "user": "someone", "max_completion_tokens": 3},
        b"not JSON",
        b"",
        {"messages": [{"role": "developer", "content": [{"type": "text", "text": "a"}] * 2}]},
        chat_line("r", logit_bias={"5": 1.5}, stop="\n", logprobs=True, top_logprobs=2),
        {"prompt": "c", "model": "other"},
        {"prompt": "d", "min_tokens": 9},
        completion_line("s"),
        {"prompt": "ü\u2028\u0085", "seed": 2**63 - 1, "n": 2},
    ]
    return write(folder / "in.jsonl", *lines)


@pytest.mark.parametrize("make", [text_file, csv_file, parquet_file, plain_file])
@pytest.mark.parametrize(
    "options",
    [{}, {"system": "Be brief."}, {"as_completion": True}, {"defaults": {"max_tokens": 8}}],
    ids=["plain", "system", "completions", "defaults"],
)
def test_every_form_of_input_gives_the_same_lines(
    tmp_path: Path, make: Any, options: dict[str, Any]
) -> None:
    lines = assert_the_same(make(tmp_path), **options)
    assert any(isinstance(line, AcceptedLine) for line in lines)


def test_completions_keep_their_prompts_and_parameters(tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = [
        {"logprobs": 0},
        {"logprobs": 3},
        {"prompt": [1, 2]},
        {"prompt": [""]},
        {"n": 3},
    ]
    lines = [completion_line(f"r{n}", **body) for n, body in enumerate(bodies)]
    for line in assert_the_same(write(tmp_path / "in.jsonl", *lines)):
        accepted(line)


@pytest.mark.parametrize("line", [case[0] for case in CASES])
def test_every_refusal_keeps_its_words(tmp_path: Path, line: object) -> None:
    is_completion = isinstance(line, dict) and line.get("url") == "/v1/completions"
    after = completion_line("after") if is_completion else chat_line("after")
    first, _ = assert_the_same(write(tmp_path / "in.jsonl", line, after))
    refused(first)


@MANY_FILES
@given(data=FILES)
def test_any_file_that_can_be_read_gives_the_same_lines(tmp_path: Path, data: bytes) -> None:
    for name in ("any.jsonl", "any.txt", "any.csv"):
        path = tmp_path / name
        path.write_bytes(data)
        try:
            lines = read(path)
        except InputFileError:
            continue
        assert read_upload(uploaded(lines), lines) == lines


@MANY_FILES
@given(body=BODIES)
def test_any_body_gives_the_same_request(tmp_path: Path, body: dict[str, object]) -> None:
    line = openai_line("/v1/chat/completions", "r", body)
    assert_the_same(write(tmp_path / "in.jsonl", line))


def test_pieces_are_not_lines(tmp_path: Path) -> None:
    lines = read(write(tmp_path / "in.jsonl", *({"prompt": "a" * 500} for _ in range(1000))))
    sizes = [len(piece) for piece in upload_pieces(iter(lines), MODEL)]
    assert 5 < len(sizes) < 20
    assert max(sizes) < 70_000


def test_only_a_reason_that_is_whole_stands_for_a_refused_line(tmp_path: Path) -> None:
    reason = {"code": "c", "message": "m", "param": None}
    whole: dict[str, object] = {"custom_id": "a", "model": MODEL, "refused": reason}
    cases: list[dict[str, object]] = [
        whole,
        {**whole, "custom_id": "b", "prompt": "x"},
        {**whole, "custom_id": "c", "refused": {**reason, "code": 5}},
        {"prompt": "x", "refused": reason},
    ]
    found = [refused(line) for line in read(write(tmp_path / "in.jsonl", *cases))]
    assert found[0].refusal.message == "line 1: m"
    assert {line.refusal.code for line in found[1:]} == {
        "unsupported_parameter",
        "missing_required_parameter",
    }


@pytest.mark.parametrize(
    ("name", "first", "is_as_it_is"),
    [
        ("in.jsonl", chat_line(model="demo:int8"), True),
        ("in.jsonl", {"prompt": "a", "model": "demo"}, True),
        ("in.jsonl", b'\nnot JSON\n{"model": "demo", "messages": []}', True),
        ("in.jsonl", chat_line(), False),
        ("in.jsonl", chat_line(model="other"), False),
        ("in.txt", {"prompt": "a", "model": "demo"}, False),
        ("in.jsonl.gz", chat_line(model="demo"), False),
    ],
)
def test_a_file_is_uploaded_as_it_is_when_its_first_request_names_the_model(
    tmp_path: Path, name: str, first: object, is_as_it_is: bool
) -> None:
    path = write(tmp_path / name, first, {"prompt": MESSAGES})
    assert is_uploadable(path, InputLimits(), {"demo", "demo:int8"}) == is_as_it_is


def test_every_line_of_an_upload_names_its_model(tmp_path: Path) -> None:
    data = uploaded(read(plain_file(tmp_path)))
    values = [json.loads(line) for line in data.splitlines() if line]
    assert {value.get("body", value)["model"] for value in values} == {MODEL}
