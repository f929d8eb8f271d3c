"""Lines are stored in groups whose memory is bounded, whatever they consist of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.generation import ChatMessage, ChatPrompt, Refusal, TextPrompt, TokenPrompt
from models.params import DecodingParams
from models.store import lines
from models.store.lines import grouped
from models.wire.lines import Line, RefusedLine
from tests.store.builders import accepted

QUARTER = lines._CHARS_PER_INSERT // 4
N_PARTS = QUARTER // lines._CHARS_PER_PART + 1
PLAIN = accepted(0)
TURN = ChatMessage(role="user", content="")
BIASES = dict.fromkeys(range(N_PARTS), 1.0)


@pytest.mark.parametrize(
    ("line", "most"),
    [
        (PLAIN, 1000),
        (accepted(0, TextPrompt(text="x" * QUARTER)), 4),
        (accepted(0, TokenPrompt(token_ids=(1,) * (QUARTER // 4))), 4),
        (accepted(0, ChatPrompt(messages=(TURN,) * N_PARTS)), 4),
        (replace(PLAIN, params=DecodingParams(stop_token_ids=(1,) * N_PARTS)), 4),
        (replace(PLAIN, params=DecodingParams(logit_bias=BIASES)), 4),
        (RefusedLine(1, None, Refusal(code="x", message="y" * QUARTER)), 4),
    ],
    ids=["plain", "text", "tokens", "turns", "stop tokens", "biases", "refusals"],
)
def test_a_group_holds_few_lines_when_they_are_large(line: Line, most: int) -> None:
    n_lines = 2 * most + 1
    assert [len(group) for group in grouped([line] * n_lines)] == [most, most, 1]
