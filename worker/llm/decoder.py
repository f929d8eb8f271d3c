"""The decoder of all families on packed rows and a paged cache.

Tensors only: which sequences run, and what is done with the logits, is the engine's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.llm.attention import soft_capped
from worker.llm.config import ModelConfig
from worker.llm.decoder_layer import DecoderLayer, LayerSteps
from worker.llm.embedding import Embedding
from worker.llm.kv_cache import KVCache
from worker.llm.linear import Linear
from worker.llm.operations import Operations, TorchOperations
from worker.llm.packed import PackedInput
from worker.llm.rows import Rows


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """All tensors of a model."""

    embedding: Embedding
    layers: tuple[DecoderLayer, ...]
    norm: Tensor  # (hidden,)
    lm_head: Linear  # hidden → vocabulary


class Decoder:
    """One model; `forward` may be called by one thread at a time.

    A cache must always be used with the same operations: they decide its layout.
    """

    def __init__(
        self, config: ModelConfig, weights: DecoderWeights, operations: Operations | None = None
    ) -> None:
        self.config = config
        self.compute_dtype = weights.embedding.dtype
        self._weights = weights
        self._operations = operations or TorchOperations(config, self.compute_dtype)
        self._steps = LayerSteps(self._operations, config.rms_norm_eps)

    @property
    def has_compiled_steps(self) -> bool:
        """Whether the steps between the matmuls are not those of PyTorch."""
        return not isinstance(self._operations, TorchOperations)

    @property
    def has_compiled_matmuls(self) -> bool:
        """Whether any matmul is our own."""
        return any(linear.is_compiled for linear in self._linears)

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights."""
        linear_bytes = sum(linear.weight_bytes for linear in self._linears)
        return self._weights.embedding.weight_bytes + linear_bytes

    @torch.no_grad()
    def forward(self, packed: PackedInput, cache: KVCache) -> Tensor:
        """Run one step: write keys and values of all rows to the cache, return the logits.

        The logits (S, vocabulary) are float32, one row per `packed.sample_rows`.
        """
        attend = self._operations.attention(packed, cache)
        x = self._weights.embedding(packed.token_ids)  # (T, hidden)
        delta: Rows | None = None  # the last matmul's result, not yet added to x
        for index, layer in enumerate(self._weights.layers):
            delta = self._steps.run(layer, index, x, delta, attend)
        head = self._weights.lm_head
        x = x.index_select(0, packed.sample_rows)  # (S, hidden)
        delta = None if delta is None else delta.select(packed.sample_rows)
        logits = head(self._steps.before(x, delta, self._weights.norm, head)).applied().float()
        cap = self.config.logit_softcap
        return logits if cap is None else soft_capped(logits, cap)

    @property
    def _linears(self) -> list[Linear]:
        linears = [self._weights.lm_head]
        for layer in self._weights.layers:
            linears += [layer.qkv, layer.output, layer.gate_up, layer.down]
        return linears
