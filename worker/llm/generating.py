"""`generate` of transformers as a program that asks for every token.

Works on each release from 4.51 on, and on IPEX's own version of the method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Of the logits (B, V) float32 of a step: the next token of each row, or None when all have ended.
Choose = Callable[[Tensor], list[int] | None]

_PADDING_ID = 0
_NO_END = -1  # what ends a row is for the engine to say


class Generator:
    """One model of transformers; `generate` may be called by one thread at a time."""

    def __init__(self, model: Any, context_tokens: int) -> None:
        self._model = model
        self._context_tokens = context_tokens

    def generate(self, prompts: Sequence[Sequence[int]], choose: Choose) -> None:
        """See worker.engine.static_engine.GeneratingModel."""
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), _PADDING_ID)  # (B, L)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):  # padded on the left: the last column is the newest
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        steering = _Steering(choose)
        with torch.inference_mode():
            self._model.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=self._context_tokens - width + 1,
                pad_token_id=_PADDING_ID,
                eos_token_id=[_NO_END],
                logits_processor=[steering.process],
                stopping_criteria=[steering.has_ended],
            )


class _Steering:
    """Hooks of `generate`: what the engine chose is made the likeliest token."""

    def __init__(self, choose: Choose) -> None:
        self._choose = choose
        self._is_over = False

    def process(self, ids: Tensor, scores: Tensor) -> Tensor:
        """The scores (B, V) with the chosen tokens above all others."""
        with torch.inference_mode(False):
            tokens = self._choose(scores.float().clone())
        self._is_over = tokens is None
        chosen = torch.tensor(tokens or [_PADDING_ID] * ids.size(0)).unsqueeze(1)
        return torch.zeros_like(scores).scatter(1, chosen, 1.0)

    def has_ended(self, ids: Tensor, scores: object, **_: object) -> Tensor:  # noqa: ARG002
        """True for all rows once the engine wants no more."""
        return torch.full((ids.size(0),), self._is_over)
