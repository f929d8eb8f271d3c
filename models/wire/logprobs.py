"""Log-probabilities in the two formats of OpenAI's API."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from models.generation import TokenLogprob, TopLogprob


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, object]:
    """The format of /v1/chat/completions: one object per token."""
    content = [
        {**_entry(token), "top_logprobs": [_entry(top) for top in token.top_logprobs]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, object]:
    """The format of /v1/completions: one list per property, all of the same length.

    `text_offset` counts characters from the start of the answer.
    """
    lengths = [len(token.token) for token in tokens]
    return {
        "text_offset": list(accumulate(lengths, initial=0))[: len(tokens)],
        "token_logprobs": [token.logprob for token in tokens],
        "tokens": [token.token for token in tokens],
        "top_logprobs": [
            {top.token: top.logprob for top in token.top_logprobs} for token in tokens
        ],
    }


def _entry(token: TopLogprob) -> dict[str, object]:
    given = None if token.bytes is None else list(token.bytes)
    return {"token": token.token, "logprob": token.logprob, "bytes": given}
