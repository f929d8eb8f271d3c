"""Greedy answers of a model, with the logits of their first tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_PADDING_ID = 0
_NO_END = 1_000_000  # no token: answers run to their full length


@dataclass(frozen=True)
class Answers:
    """What a model said to some prompts."""

    tokens: list[list[int]]
    first_logits: Tensor  # (prompts, vocabulary)

    def __eq__(self, other: object) -> bool:
        """Token for token, and bit for bit."""
        return (
            isinstance(other, Answers)
            and self.tokens == other.tokens
            and torch.equal(self.first_logits, other.first_logits)
        )


def answers_of(model: Any, prompts: Sequence[Sequence[int]], ends: Sequence[int] = ()) -> Answers:
    """24 tokens for each prompt, or as many as come before one of `ends`."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), _PADDING_ID)  # (B, L)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    logits: list[Tensor] = []

    def note(_: Tensor, scores: Tensor) -> Tensor:
        logits.append(scores.float().clone())
        return scores

    with torch.inference_mode():
        generated = model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=24,
            pad_token_id=_PADDING_ID,
            eos_token_id=list(ends) or [_NO_END],
            logits_processor=[note],
        )
    answers = [_until(row, ends) for row in generated[:, width:].tolist()]
    return Answers(answers, logits[0])


def _until(tokens: list[int], ends: Sequence[int]) -> list[int]:
    found = [index for index, token in enumerate(tokens) if token in ends]
    return tokens[: found[0]] if found else tokens
