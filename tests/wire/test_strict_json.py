"""Strict JSON: what is refused, with which reason, and that all else is what json reads."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.wire.strict_json import MAX_DEPTH, StrictJsonError, check_value, loads, shown

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_reads_back_every_value_that_json_writes(value: object) -> None:
    assert loads(json.dumps(value).encode()) == value
    assert loads(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_a_reason(data: bytes) -> None:
    try:
        value = loads(data)
    except StrictJsonError as exc:
        assert str(exc).isprintable()
    else:
        check_value(value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": {"b": [1, 1e999]}}', "field a.b[1] is not a finite number"),
        (b'{"a": 1, "b": 2, "a": 3}', 'key "a" is given twice'),
        (b'{"a": {"b": 1, "b": 1}}', 'key "b" is given twice'),
        (b'{"a": "x\\u0000"}', "field a contains a NUL character"),
        (b'{"a": ["\\ud800"]}', "field a[0] contains half of a surrogate pair"),
        (b'{"\\udfff": 1}', "field \\udfff contains half of a surrogate pair"),
        (b'"\\u0000"', "the value contains a NUL character"),
        (b'{"a": "\xff"}', "byte 8 is not UTF-8"),
        (b'{"a": }', "not JSON at column 7: Expecting value"),
        (b"1" * 5000, "a number has too many digits"),
        (b"[" * 100_000, f"nested deeper than {MAX_DEPTH} levels"),
    ],
)
def test_names_the_reason(text: bytes, reason: str) -> None:
    with pytest.raises(StrictJsonError) as caught:
        loads(text)
    assert str(caught.value) == reason


def test_a_surrogate_pair_is_one_character() -> None:
    assert loads(b'"\\ud83d\\ude00"') == "😀"


def test_the_depth_limit_is_exact() -> None:
    loads(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(StrictJsonError):
        loads(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


@given(VALUES)
def test_a_shown_value_is_short_and_printable(value: object) -> None:
    assert shown(value).isprintable()
    assert len(shown(value)) <= 40


def test_check_value_refuses_what_a_table_may_hold() -> None:
    with pytest.raises(StrictJsonError, match="field temperature is not a finite number"):
        check_value({"temperature": math.nan})
