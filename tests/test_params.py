"""Decoding parameters: frozen, bounded, consistent, and unchanged by a trip through JSON."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.params import DecodingParams

PARAMS = st.builds(
    DecodingParams,
    max_tokens=st.none() | st.integers(10, 2**31 - 1),
    min_tokens=st.integers(0, 10),
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0.001, 1),
    top_k=st.none() | st.integers(-1, 1000),
    repetition_penalty=st.none() | st.floats(0.01, 10),
    logit_bias=st.none() | st.dictionaries(st.integers(0, 2**31 - 1), st.floats(-100, 100)),
    stop=st.lists(st.text(min_size=1, max_size=256), max_size=16),
    seed=st.none() | st.integers(0, 2**63 - 1),
    logprobs=st.just(True),
    top_logprobs=st.integers(0, 20),
)


@given(PARAMS)
def test_json_gives_the_same_parameters_back(params: DecodingParams) -> None:
    assert DecodingParams.model_validate_json(params.model_dump_json()) == params
    assert DecodingParams.model_validate(params.model_dump(mode="json")) == params


def test_openais_newer_name_of_max_tokens_is_the_same_field() -> None:
    new = DecodingParams.model_validate({"max_completion_tokens": 5})
    assert new == DecodingParams(max_tokens=5)
    assert new.model_dump(exclude_unset=True) == {"max_tokens": 5}


@pytest.mark.parametrize(
    ("field", "lowest", "highest"),
    [
        ("max_tokens", 1, 2**31 - 1),
        ("min_tokens", 0, None),
        ("temperature", 0, 2),
        ("top_p", 0.01, 1),
        ("top_k", -1, 2**31 - 1),
        ("min_p", 0, 1),
        ("repetition_penalty", 0.01, 1e6),
        ("presence_penalty", -2, 2),
        ("frequency_penalty", -2, 2),
        ("seed", 0, 2**63 - 1),
        ("n", 1, 128),
    ],
)
def test_bounds_belong_to_the_range_and_the_next_value_does_not(
    field: str, lowest: float, highest: float | None
) -> None:
    for inside in (lowest, highest):
        if inside is not None:
            assert getattr(DecodingParams(**{field: inside}), field) == inside  # type: ignore[arg-type]
    too_high = 2**31 if highest is None else math.inf if highest == 1e6 else highest + 1
    for outside in (lowest - 1, too_high, math.nan):
        with pytest.raises(ValidationError, match=field):
            DecodingParams(**{field: outside})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": ("",)},
        {"stop": ("a" * 257,)},
        {"stop": ("a",) * 17},
        {"stop_token_ids": (-1,)},
        {"stop_token_ids": (2**31,)},
        {"logit_bias": {-1: 0.0}},
        {"logit_bias": {2**31: 0.0}},
        {"logit_bias": {1: 100.5}},
        {"logit_bias": {1: math.nan}},
        {"logprobs": True, "top_logprobs": 21},
        {"temprature": 1},
    ],
)
def test_what_no_sampler_could_use_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DecodingParams.model_validate(fields)


def test_fields_that_contradict_each_other_are_refused() -> None:
    DecodingParams(min_tokens=5, max_tokens=5)
    with pytest.raises(ValidationError, match="min_tokens is greater than max_tokens"):
        DecodingParams(min_tokens=6, max_tokens=5)
    with pytest.raises(ValidationError, match="top_logprobs needs logprobs: true"):
        DecodingParams(top_logprobs=1)


def test_parameters_are_frozen() -> None:
    with pytest.raises(ValidationError):
        DecodingParams().n = 2
