"""Strategies: input files that are nearly right, and JSON values of every kind."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from models.wire.decoding import HARMLESS_AT, parameter_names

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
WILD_TEXT = st.text(max_size=12) | st.sampled_from(
    ["", "\0", "\ud800", "a\udc00", "\ud83d\ude00", "\ufeff", "\u2028", "\x85", "a" * 129, "é" * 65]
)
NUMBERS = (
    st.integers(-3, 200)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        [2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**400, -(10**400), 1e308, -0.0, 1e-300]
    )
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
WILD_VALUES = st.recursive(
    SCALARS | WILD_TEXT | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WILD_TEXT, inner, max_size=3),
    max_leaves=8,
)
PARAMETERS = st.dictionaries(
    st.sampled_from([*parameter_names(), *HARMLESS_AT, "user", "safety_identifier", "stopp"]),
    VALUES,
    max_size=3,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "developer", "tool"])},
        optional={
            "content": TEXT
            | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), max_size=2)
            | VALUES,
            "name": VALUES,
        },
    ),
    max_size=3,
)
PROMPTS = TEXT | st.lists(st.integers(-1, 2**31), max_size=3) | VALUES


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """A request in one of the forms, with fields that may be wrong."""
    fields: dict[str, Any] = dict(draw(PARAMETERS))
    if draw(st.booleans()):
        fields["messages"] = draw(MESSAGES)
    if draw(st.integers(0, 3)) < 2:
        fields["prompt"] = draw(PROMPTS)
    if draw(st.booleans()):
        url = "/v1/chat/completions" if "messages" in fields else "/v1/completions"
        fields = {"method": "POST", "url": url, "body": fields}
    fields |= draw(
        st.dictionaries(
            st.sampled_from(["custom_id", "id", "model", "url", "method", "body", "refused"]),
            VALUES | st.sampled_from(["a", "b", 1, "demo:int8", "demo"]),
            max_size=2,
        )
    )
    return fields


@st.composite
def refused_requests(draw: st.DrawFn) -> dict[str, Any]:
    """What `nightshift submit` writes for a line that it refused, or nearly so."""
    texts = WILD_TEXT.filter(lambda text: text.isprintable()) | TEXT
    reason = {
        "code": draw(st.sampled_from(["invalid_type", "a" * 65, "", "B", 1]) | texts),
        "message": draw(texts | st.sampled_from(["m" * 400, 3])),
        "param": draw(st.none() | texts),
    }
    return {"custom_id": draw(st.none() | texts), "model": draw(texts), "refused": reason}


def _written(value: object) -> st.SearchStrategy[bytes]:
    """The value as JSON in one of the ways in which people write it."""
    escaped = json.dumps(value)
    try:
        plain = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        plain = escaped.encode()
    return st.sampled_from([escaped.encode(), plain, escaped.replace(": ", ":\t").encode()])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A written request with something put in, taken out or doubled."""
    line = draw((requests() | refused_requests()).flatmap(_written))
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(line)))
        stop = draw(st.integers(start, min(len(line), start + 12)))
        line = line[:start] + draw(SPLINTERS) + line[stop:]
    return line


SPLINTERS = st.binary(max_size=4) | st.sampled_from(
    [
        b"",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"-1e-999",
        b"0" * 40,
        b"9" * 4400,
        b'"a": 1, "a": 2,',
        b"[" * 40,
        b"]" * 40,
        b'{"a":' * 40,
        b"\\ud800",
        b"\\ud83d\\ude00",
        b"\\u0000",
        b"\\x",
        b"\x00",
        b"\xed\xa0\x80",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\r",
        b"\n",
        b"\r\n",
        b"\x0b",
        b"\x0c",
        b"\x1a",
        b"\xe2\x80\xa8",
        b'"',
        b",",
        b"}{",
        b"//",
        b"null",
        b" " * 520,
    ]
)
LINE_ENDS = st.sampled_from([b"\n", b"\n", b"\r\n", b"\r\r\n", b"\r", b"\n\n", b" \n", b""])


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Lines that are right, nearly right or nothing at all, with every kind of end."""
    lines = st.one_of(
        requests().flatmap(_written),
        mutated(),
        SPLINTERS,
        st.sampled_from([b'{"prompt": "a"}', b'{"id": 7, "prompt": "a"}', b"prompt,max_tokens"]),
        st.integers(508, 516).map(lambda size: b'{"prompt": "%s"}' % (b"x" * (size - 14))),
    )
    start = draw(
        st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf", b"\xff\xfe"])
    )
    parts = draw(st.lists(st.tuples(lines, LINE_ENDS), max_size=5))
    return start + b"".join(line + end for line, end in parts)


CELLS = (
    TEXT
    | st.sampled_from(
        ["", "True", "1e999", "NaN", "[1", '["a"]', '{"5": 1}', "007", "\0", '"', "1" * 600]
    )
    | NUMBERS.map(str)
    | WILD_TEXT.filter(lambda text: "\ud800" not in text and "\udc00" not in text)
)
COLUMNS = st.lists(
    st.sampled_from(["prompt", "messages", "custom_id", "id", "model", "user", *parameter_names()]),
    min_size=1,
    max_size=4,
)


@st.composite
def csv_files(draw: st.DrawFn) -> bytes:
    """A header and rows, quoted well or badly."""
    header = draw(COLUMNS)
    rows = draw(st.lists(st.lists(CELLS, min_size=1, max_size=len(header) + 1), max_size=4))
    quote = draw(st.sampled_from(['"', "", "'"]))
    lines = [",".join(header), *(",".join(f"{quote}{c}{quote}" for c in row) for row in rows)]
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return end.join(lines).encode("utf-8", "surrogatepass")


def cells_of_every_type() -> list[pa.Array]:
    """One cell each of what a Parquet column may hold."""
    days = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        pa.array([b"\xff"]),
        pa.array([Decimal("1.5")]),
        pa.array([days]),
        pa.array([days.date()]),
        pa.array([days.time()]),
        pa.array([timedelta(seconds=1)]),
        pa.array([float("nan")]),
        pa.array([2**64 - 1], pa.uint64()),
        pa.array([1.5], pa.float16()),
        pa.array([True]),
        pa.array([[1, 2]]),
        pa.array([[]], pa.list_(pa.string())),
        pa.array([["a", None]]),
        pa.array([{"role": "user", "content": None}]),
        pa.array([[{"role": "user", "content": "a"}]]),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        pa.array(["a\0"]).dictionary_encode(),
        pa.array(["1"], pa.large_string()),
        pa.array([None]),
    ]
