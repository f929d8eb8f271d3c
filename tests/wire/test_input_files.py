"""The input file as a whole: what makes it unusable, its limits, and memory that does not grow."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from models.errors import InputFileError
from models.settings import load_settings
from models.wire.input import InputLimits, file_digest, read_lines
from models.wire.lines import AcceptedLine, RefusedLine
from tests.wire.files import MODEL, accepted, chat_line, completion_line, read, refused, write

MANY_FILES = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
BODY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
BODIES = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries(
                {"role": st.sampled_from(["system", "user", "assistant"]), "content": BODY_TEXT}
            ),
            min_size=1,
            max_size=3,
        )
    },
    optional={
        "max_tokens": st.integers(1, 2**31 - 1),
        "temperature": st.floats(0, 2) | st.integers(0, 2),
        "top_p": st.floats(0.01, 1),
        "seed": st.integers(0, 2**63 - 1),
        "stop": BODY_TEXT.filter(bool).map(lambda text: text[:256])
        | st.lists(st.sampled_from(["a", "\n"]), max_size=3),
        "n": st.integers(1, 128),
        "logit_bias": st.dictionaries(st.integers(0, 10**6).map(str), st.integers(-100, 100)),
    },
)
PIECES = st.sampled_from(
    [
        b"\n",
        b"\r\n",
        b" ",
        b"{",
        b"}",
        b'"prompt"',
        b":",
        b'"a"',
        b",",
        b"[",
        b"]",
        b"NaN",
        b"1e999",
        b"\xff",
        b"\x00",
        b"\\ud800",
        b'{"prompt": "x"}',
        b'"custom_id"',
        b'"url"',
        b'"body"',
        b'"temperature"',
        b'{"messages": []}',
        b"\xef\xbb\xbf",
        b"-",
        b"null",
    ]
)
FILES = st.lists(PIECES | st.binary(max_size=4), max_size=40).map(b"".join)

# Without a time in it, so that a test's name is the same in every run.
CUT_GZIP = gzip.compress(b'{"prompt": "a"}' * 99, mtime=0)[:-9]


@MANY_FILES
@given(data=FILES, suffix=st.sampled_from([".jsonl", ".txt", ".csv", ".parquet", ".jsonl.gz", ""]))
def test_any_bytes_give_lines_or_an_input_file_error(
    tmp_path: Path, data: bytes, suffix: str
) -> None:
    path = tmp_path / f"any{suffix}"
    path.write_bytes(data)
    try:
        found = read(path, limits=InputLimits(max_line_bytes=64))
    except InputFileError as exc:
        assert str(exc).isprintable()
        return
    assert found
    for line in found:
        assert isinstance(line, AcceptedLine) or line.refusal.message.isprintable()


@MANY_FILES
@given(data=FILES)
def test_every_line_that_is_not_blank_becomes_exactly_one(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"prompt": "first"}\n' + data)
    lines = path.read_bytes().split(b"\n")
    expected = [number for number, line in enumerate(lines, 1) if line.strip()]
    assert [line.line_number for line in read(path)] == expected


@MANY_FILES
@given(bodies=st.lists(BODIES, min_size=1, max_size=5))
def test_every_valid_body_is_accepted_with_what_it_says(
    tmp_path: Path, bodies: list[dict[str, object]]
) -> None:
    lines = [chat_line(f"r-{n}") | {"body": body} for n, body in enumerate(bodies)]
    found = [accepted(line) for line in read(write(tmp_path / "in.jsonl", *lines))]
    assert [line.custom_id for line in found] == [line["custom_id"] for line in lines]
    for line, body in zip(found, bodies, strict=True):
        written = line.params.model_dump(mode="json", exclude_unset=True)
        assert line.prompt.model_dump()["messages"] == tuple(body.pop("messages"))  # type: ignore[arg-type]
        stop = body.get("stop")
        expected = {**body, "stop": [stop]} if isinstance(stop, str) else body
        assert written == expected


def test_the_parsed_prompt_and_parameters_survive_json(tmp_path: Path) -> None:
    lines = [chat_line("a", stop=["x"], logit_bias={"7": 2}, seed=2**63 - 1)]
    line = accepted(read(write(tmp_path / "in.jsonl", *lines))[0])
    assert type(line.prompt).model_validate_json(line.prompt.model_dump_json()) == line.prompt
    assert type(line.params).model_validate_json(line.params.model_dump_json()) == line.params


@pytest.mark.parametrize(
    ("name", "data", "code", "message"),
    [
        ("in.jsonl", b"", "empty_file", "is empty; give one request per line"),
        ("in.jsonl", b"\n \r\n", "empty_file", "has no line that is not blank"),
        (
            "in.jsonl",
            b"hello\nworld",
            "invalid_json_line",
            "no line of .* is a JSON object; .*line 1",
        ),
        ("in.jsonl", b"\n[1]\n2", "invalid_json_line", r"\(line 2: \[1\] is not a JSON object\)"),
        ("in.jsonl", bytes(range(256)) * 40, "invalid_json_line", "no line of"),
        ("in.txt", b"\xff\n\xfe", "invalid_json_line", "no line of .* is UTF-8 text"),
        ("in.txt", b"\n", "empty_file", "has no line that is not blank"),
        ("in.jsonl.gz", b"{}", "invalid_file", "cannot be read"),
        ("in.jsonl.gz", CUT_GZIP, "invalid_file", "cannot be"),
        ("in.parquet", b"PAR1 no", "invalid_file", "cannot be read as Parquet|cannot be read"),
        ("in.csv", b"\n", "empty_file", "has no header; name a column prompt"),
        ("in.csv", b"prompt\n", "empty_file", "holds no request"),
        ("in.csv", b"text\na", "unsupported_parameter", 'a column "text" that is no field'),
        ("in.csv", b"prompt,temprature\n", "unsupported_parameter", "did you mean temperature"),
        ("in.csv", b"prompt,prompt\n", "unsupported_parameter", 'column "prompt" twice'),
        ("in.csv", b"id,seed\n1,2", "missing_required_parameter", "has no column prompt or messa"),
        ("in.csv", b'prompt\n"a\nb\n', "invalid_file", "no CSV at line 3: unexpected end of data"),
        ("in.csv", b'prompt\n"a"b\n', "invalid_file", "is no CSV at line 2"),
        ("in.xlsx", b"PK\x03\x04", "invalid_file", "name it .jsonl, .txt, .csv or .parquet"),
    ],
)
def test_a_file_that_cannot_be_used_at_all_is_one_error(
    tmp_path: Path, name: str, data: bytes, code: str, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputFileError, match=message) as caught:
        read(path)
    assert caught.value.code == code
    assert caught.value.exit_code == 2
    assert name in str(caught.value)


def test_what_is_wrong_with_the_file_is_raised_by_the_call_itself(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"hello")
    with pytest.raises(InputFileError):
        read_lines(path, model_name=MODEL)


def test_a_missing_file_a_folder_and_a_pipe_are_refused_with_advice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path, message in (
        (tmp_path / "none.jsonl", "there is no file .*none.jsonl; check the path"),
        (tmp_path, "is a folder; give one file of requests"),
        (tmp_path / "pipe.jsonl", "is not a regular file; write the requests into one first"),
        (tmp_path / "none.jsonl" / "x", "there is no file"),
        (Path("a\x00b"), "cannot be read"),
    ):
        with pytest.raises(InputFileError, match=message):
            read(path)


def test_a_file_in_a_file_is_named_by_the_system(tmp_path: Path) -> None:
    write(tmp_path / "file", b"x")
    with pytest.raises(InputFileError, match="Not a directory"):
        read(tmp_path / "file" / "in.jsonl")
    with pytest.raises(InputFileError, match="Is a directory"):
        file_digest(tmp_path)


def test_more_requests_than_allowed_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", {"prompt": "a"}, b"", {"prompt": "b"}, b"{")
    assert len(read(path, limits=InputLimits(max_requests=3))) == 3
    with pytest.raises(InputFileError, match="NIGHTSHIFT_MAX_FILE_REQUESTS") as caught:
        read(path, limits=InputLimits(max_requests=2))
    assert (caught.value.code, caught.value.line) == ("file_too_large", 4)


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz", "in.csv.gz", "in.parquet"])
def test_more_bytes_than_allowed_are_an_error_packed_or_not(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rows = 20_000
    if name.endswith(".parquet"):
        parquet.write_table(pa.table({"prompt": ["a" * 20] * rows, "seed": range(rows)}), path)
    else:
        line = b"prompt\n" if "csv" in name else b'{"prompt": "a"}\n'
        data = line + b"x" * (rows * 20)  # one endless line
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    limits = InputLimits(max_file_bytes=100_000, max_line_bytes=1000)
    with pytest.raises(InputFileError) as caught:
        read(path, limits=limits)
    assert caught.value.code in ("file_too_large", "line_too_long")


def test_an_overlong_csv_line_ends_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", b"prompt", b"a", b"x" * 101, b"b")
    with pytest.raises(InputFileError, match=r"line 3 of .* longer than 100 bytes") as caught:
        read(path, limits=InputLimits(max_line_bytes=100))
    assert caught.value.line == 3


def test_an_overlong_parquet_row_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"prompt": ["a" * 101, "b"]}), tmp_path / "in.parquet")
    first, second = read(tmp_path / "in.parquet", limits=InputLimits(max_line_bytes=100))
    assert refused(first).refusal.code == "line_too_long"
    accepted(second)


def test_limits_are_those_of_the_settings() -> None:
    defaults = load_settings({})
    assert InputLimits.from_settings(defaults) == InputLimits()
    changed = load_settings({"NIGHTSHIFT_MAX_LINE_BYTES": "9", "NIGHTSHIFT_MAX_FILE_REQUESTS": "8"})
    assert InputLimits.from_settings(changed) == InputLimits(max_requests=8, max_line_bytes=9)


def test_fifty_thousand_lines_are_read_in_memory_that_does_not_hold_them(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    with path.open("w") as stream:
        for number in range(50_000):
            body = {"messages": [{"role": "user", "content": "word " * 80}], "max_tokens": 4}
            stream.write(json.dumps(chat_line(f"r-{number}") | {"body": body}) + "\n")
    tracemalloc.start()
    try:
        # Every custom_id costs a hash and a line number in one dict: far less than its line.
        count = sum(isinstance(line, AcceptedLine) for line in read_lines(path, model_name=MODEL))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 50_000
    assert peak_bytes < 12 * 1024**2 < path.stat().st_size / 2


def test_one_bad_line_kills_no_other(tmp_path: Path) -> None:
    lines: list[object] = [completion_line(f"r-{n}") for n in range(100)]
    lines[17], lines[50] = b"{", completion_line("r-50", temprature=1)
    found = read(write(tmp_path / "in.jsonl", *lines))
    assert [line.line_number for line in found if isinstance(line, RefusedLine)] == [18, 51]
    assert len(found) == 100


def test_a_digest_is_of_the_bytes_on_the_disk(tmp_path: Path) -> None:
    data = os.urandom(3 * 1024**2 + 7)
    (tmp_path / "in.jsonl.gz").write_bytes(data)
    expected = (hashlib.sha256(data).hexdigest(), len(data))
    assert file_digest(tmp_path / "in.jsonl.gz") == expected
    with pytest.raises(InputFileError, match="there is no file"):
        file_digest(tmp_path / "none")
