"""Any bytes at all give lines, or the one documented error for the file as a whole."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from models.errors import InputFileError
from models.wire.decoding import parameter_names
from models.wire.input import InputLimits, read_lines
from models.wire.raw_lines import split_raw_lines
from tests.fuzz import shapes
from tests.fuzz.budget import examples
from tests.fuzz.reading import LIMITS, MODEL, check_input, check_jsonl, check_lines, check_upload

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.input"))


@examples(100)
@given(data=st.binary(max_size=80) | st.lists(shapes.SPLINTERS, max_size=12).map(b"".join))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    check_input(data, tmp_path)


@examples(150)
@given(data=shapes.files())
def test_lines_that_are_nearly_right(tmp_path: Path, data: bytes) -> None:
    check_jsonl(data, tmp_path)
    check_upload(data)


@examples(60)
@given(data=shapes.files())
def test_a_file_that_is_taken_for_something_else(tmp_path: Path, data: bytes) -> None:
    check_input(data, tmp_path)


@examples(120)
@given(data=shapes.csv_files())
def test_tables_that_are_nearly_right(tmp_path: Path, data: bytes) -> None:
    check_input(data, tmp_path)


@examples(40)
@given(texts=st.lists(shapes.TEXT, max_size=3), start=st.integers(0, 700), part=shapes.SPLINTERS)
def test_damaged_parquet(tmp_path: Path, texts: list[str], start: int, part: bytes) -> None:
    path = tmp_path / "in.parquet"
    parquet.write_table(pa.table({"prompt": pa.array(texts, pa.string())}), path)
    data = path.read_bytes()
    check_input(data[:start] + part + data[start + len(part) :], tmp_path)


def test_parquet_columns_of_every_type(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    for name in ("prompt", "messages", "custom_id", "id", "model", "user", *parameter_names()):
        for values in shapes.cells_of_every_type():
            columns = {"prompt": pa.array(["a"]), name: values}
            parquet.write_table(pa.table(columns), path)
            (line,) = read_lines(path, model_name=MODEL, limits=LIMITS)
            check_lines([line], n_lines=1)


@pytest.mark.parametrize("path", CORPUS, ids=[path.stem for path in CORPUS])
def test_kept_inputs(tmp_path: Path, path: Path) -> None:
    check_input(path.read_bytes(), tmp_path)


def test_the_corpus_is_there() -> None:
    assert len(CORPUS) > 40


@pytest.mark.parametrize("end", [b"\n", b""], ids=["lines", "one line"])
def test_memory_is_bounded_by_the_longest_line(end: bytes) -> None:
    limits = InputLimits(max_line_bytes=64 << 10, max_file_bytes=1 << 30)
    data = (b"x" * (1 << 20) + end) * 32
    stream = io.BytesIO(data)
    tracemalloc.start()
    n_lines = sum(1 for _ in split_raw_lines(stream, limits, name="upload"))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_lines == (32 if end else 1)
    assert peak_bytes < 8 * limits.max_line_bytes


def test_a_row_of_many_lines_is_bounded_as_a_line_is(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b'prompt,stop\n"a\nb",c\n' + b'"x\n",' * 300 + b"y\n")
    with pytest.raises(InputFileError, match="ends a row that is longer than 512 bytes") as caught:
        list(read_lines(path, model_name=MODEL, limits=LIMITS))
    assert (caught.value.code, caught.value.line) == ("line_too_long", 107)
