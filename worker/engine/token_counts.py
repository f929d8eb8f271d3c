"""Which tokens a sequence holds, and how often it sampled them: what penalties need.

Kept as growing tensors, so that a step concatenates them and never counts again.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids

import torch
from torch import Tensor


class TokenCounts:
    """Distinct tokens of prompt and output, with the number of times each was sampled."""

    def __init__(self, prompt_ids: Ids[int]) -> None:
        distinct = list(dict.fromkeys(prompt_ids))
        self._place = {token: place for place, token in enumerate(distinct)}
        self._num_sampled = 0
        self._ids = torch.tensor(distinct, dtype=torch.int64)
        self._counts = torch.zeros(len(distinct))

    def catch_up(self, output_ids: Ids[int]) -> None:
        """Count the tokens sampled since the last call."""
        for token in output_ids[self._num_sampled :]:
            place = self._place.setdefault(token, len(self._place))
            if place == len(self._ids):
                self._grow()
            self._ids[place] = token
            self._counts[place] += 1
        self._num_sampled = len(output_ids)

    @property
    def ids(self) -> Tensor:
        """The distinct tokens (D,) int64."""
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> Tensor:
        """How often each was sampled (D,) float32; 0: it is in the prompt only."""
        return self._counts[: len(self._place)]

    def _grow(self) -> None:
        more = max(16, len(self._ids))
        self._ids = torch.cat([self._ids, torch.zeros(more, dtype=torch.int64)])
        self._counts = torch.cat([self._counts, torch.zeros(more)])
