"""The embedding: one row for each token of the vocabulary, looked up by its id."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from worker.llm.config import ModelConfig
from worker.llm.quantize import dequantized


class Embedding:
    """The rows as they are stored; quantized ones are dequantized when they are looked up.

    `parts` are what `quantize_linear` makes of (vocabulary, hidden), `dtype` is that of the rows
    that are looked up.
    """

    def __init__(
        self, config: ModelConfig, parts: Mapping[str, Tensor], dtype: torch.dtype
    ) -> None:
        self._config = config
        self._parts = parts
        self.dtype = dtype

    @property
    def weight(self) -> Tensor:
        """The rows of all tokens, as they are stored."""
        return self._parts["weight"]

    @property
    def weight_bytes(self) -> int:
        """Memory of the rows."""
        return sum(part.nbytes for part in self._parts.values())

    def __call__(self, token_ids: Tensor) -> Tensor:
        """The rows (T, hidden) that the first layer gets."""
        rows = {suffix: part.index_select(0, token_ids) for suffix, part in self._parts.items()}
        embedded = rows["weight"]
        if not embedded.is_floating_point():
            embedded = dequantized(rows)[:, : self._config.hidden_size]
        embedded = embedded.to(self.dtype)
        if self._config.embedding_scale == 1.0:
            return embedded
        # rounded first, as trained
        return embedded * torch.tensor(self._config.embedding_scale, dtype=self.dtype)
