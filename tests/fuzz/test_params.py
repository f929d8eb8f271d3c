"""Any JSON value for any parameter is refused by name, or means what it says, also after JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InputError, RequestRefused
from models.wire import refusals
from models.wire.bodies import parse_body
from models.wire.decoding import (
    HARMLESS_AT,
    IDENTIFIERS,
    check_defaults,
    parameter_names,
    read_params,
)
from models.wire.endpoints import Endpoint
from models.wire.input import read_lines
from models.wire.requests import Record, RequestParser, RequestRules
from models.wire.strict_json import StrictJsonError, loads
from tests.fuzz import shapes
from tests.fuzz.budget import examples
from tests.fuzz.reading import MODEL, check_lines, check_params, check_prompt

NAMES = (*parameter_names(), *HARMLESS_AT, *IDENTIFIERS)
CODES = {
    refusals.INVALID_TYPE,
    refusals.INVALID_VALUE,
    refusals.MISSING,
    refusals.UNSUPPORTED,
    "mismatched_model",
}
# Values that a parameter may have, or that look like one.
NEAR = (
    st.integers(-2, 130)
    | st.floats(-2.5, 2.5)
    | st.booleans()
    | st.lists(shapes.TEXT | st.integers(-1, 2**31), max_size=18)
    | st.dictionaries(
        st.integers(-1, 2**32).map(str)
        | st.sampled_from(["01", "+1", "1.0", "1_0", "٣", "", " 1"]),
        st.integers(-101, 101) | st.floats(),
        max_size=3,
    )
    | st.text(max_size=300)
)


def strict(value: object) -> object:
    """The value as a file would give it; raises StrictJsonError for what none can hold."""
    return loads(json.dumps(value).encode())


def check_refusal(exc: RequestRefused) -> None:
    assert exc.code in CODES
    assert str(exc).isprintable()
    assert len(str(exc)) < 1000
    assert exc.param


@pytest.mark.parametrize("endpoint", list(Endpoint))
@examples(200)
@given(name=st.sampled_from(NAMES), value=NEAR | shapes.VALUES, other=shapes.PARAMETERS)
def test_any_value_of_any_parameter(
    endpoint: Endpoint, name: str, value: object, other: dict[str, object]
) -> None:
    try:
        fields = strict({**other, name: value})
    except StrictJsonError:
        return
    assert isinstance(fields, dict)
    given = {key: item for key, item in fields.items() if item is not None}
    try:
        params = read_params(endpoint, given, defaults={}, where="body.")
    except RequestRefused as exc:
        check_refusal(exc)
        assert exc.param is not None
        assert exc.param.split("[")[0].split(".")[0] in given
    else:
        check_params(params)
        for key in params.model_fields_set & given.keys() - {"stop", "logit_bias", "logprobs"}:
            said = getattr(params, key)
            assert said == (tuple(given[key]) if isinstance(said, tuple) else given[key])


@examples(100)
@given(name=st.sampled_from(NAMES), value=NEAR | shapes.VALUES)
def test_any_default(name: str, value: object) -> None:
    try:
        defaults = check_defaults({name: value})
    except InputError as exc:
        assert str(exc).isprintable()
    else:
        check_params(read_params(Endpoint.CHAT, {}, defaults=defaults, where=""))


@pytest.mark.parametrize("text", ["\0", "\udcff"])
def test_a_flag_may_hold_what_no_file_can(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="default of a decoding parameter cannot be used"):
        check_defaults({"stop": [text]})
    path = tmp_path / "in.txt"
    path.write_text("a\n")
    with pytest.raises(InputError, match="the system message cannot be used"):
        read_lines(path, model_name=MODEL, system=text)


@examples(100)
@given(endpoint=st.sampled_from(Endpoint), body=shapes.requests() | shapes.VALUES)
def test_any_body(endpoint: Endpoint, body: object) -> None:
    try:
        body = strict(body)
    except StrictJsonError:
        return
    try:
        prompt, params = parse_body(endpoint, body, MODEL, where="body.")
    except RequestRefused as exc:
        check_refusal(exc)
    else:
        check_prompt(prompt)
        check_params(params)


@examples(80)
@given(
    contents=st.lists(shapes.requests() | shapes.refused_requests(), max_size=4),
    as_completion=st.booleans(),
)
def test_any_records(contents: list[dict[str, object]], as_completion: bool) -> None:
    parser = RequestParser(RequestRules(model_name=MODEL, as_completion=as_completion))
    lines = []
    for number, content in enumerate(contents, 1):
        try:
            fields = strict(content)
        except StrictJsonError:
            continue
        assert isinstance(fields, dict)
        lines.append(parser.parse(Record(number, fields)))
    check_lines(lines, n_lines=len(contents))
