"""A body that is wrong in a million places costs no more than one that is wrong in one."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from api.bodies import _parse
from api.problems import Problem
from api.shapes import CreateBatch
from models.params import DecodingParams

MANY = 1000
WHOLE = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"requests": [1] * MANY}, "requests.0"),
        ({"input_file_id": "file-x", "metadata": {str(n): n for n in range(MANY)}}, "metadata"),
        ({f"field_{n}": n for n in range(MANY)}, None),
    ],
    ids=["requests", "metadata", "fields"],
)
def test_one_mistake_is_told_and_the_others_are_not_looked_for(
    changes: dict[str, object], param: str | None
) -> None:
    with pytest.raises(Problem) as raised:
        _parse(CreateBatch, json.dumps({**WHOLE, **changes}).encode())
    assert (raised.value.code, raised.value.param) == ("invalid_value", param)
    cause = raised.value.__cause__
    assert not isinstance(cause, ValidationError) or cause.error_count() == 1


def test_nor_are_they_in_a_list_of_stop_tokens() -> None:
    with pytest.raises(ValidationError) as raised:
        DecodingParams(stop_token_ids=(-1,) * MANY)
    assert raised.value.error_count() == 1
