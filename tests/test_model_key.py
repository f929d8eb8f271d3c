"""Model names: one spelling, safe as folder and queue name, refused with advice otherwise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InputError
from models.model_key import ModelKey, Weights

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", fullmatch=True)


@given(NAMES, st.sampled_from(Weights))
def test_a_key_is_read_back_as_it_is_written(name: str, weights: Weights) -> None:
    key = ModelKey(name, weights)
    assert ModelKey.parse(str(key)) == key
    assert key.queue == f"gen.{name}.{weights}"


@pytest.mark.parametrize(
    "name", ["", ".hidden", "../up", "a/b", "a b", "a:b", "a\n", "é", "-x", "a" * 97]
)
def test_a_name_that_could_be_no_folder_or_queue_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot be used: give letters, digits"):
        ModelKey(name, Weights.INT8)


@pytest.mark.parametrize("text", ["demo", "demo:", "demo:int9", ":int8", "demo:INT8", "a:b:int8"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"is not of the form NAME:fp32\|bf16|cannot be used"):
        ModelKey.parse(text)
