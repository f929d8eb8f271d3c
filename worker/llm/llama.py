"""The Llama family's decoder on packed rows and a paged cache.

Tensors only: which sequences run, and what is done with the logits, is the engine's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from worker.llm.config import ModelConfig
from worker.llm.kv_cache import KVCache
from worker.llm.linear import Linear
from worker.llm.operations import Operations, TorchOperations
from worker.llm.packed import PackedInput
from worker.llm.rows import Rows


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """The weights of one layer; qkv and gate_up are concatenated along their outputs."""

    attention_norm: Tensor  # (hidden,)
    qkv: Linear  # hidden → (heads + 2 * kv heads) * d
    output: Linear  # heads * d → hidden
    mlp_norm: Tensor  # (hidden,)
    gate_up: Linear  # hidden → 2 * intermediate
    down: Linear  # intermediate → hidden


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    """All tensors of a model."""

    embedding: Tensor  # (vocabulary, hidden)
    layers: tuple[DecoderLayer, ...]
    norm: Tensor  # (hidden,)
    lm_head: Linear  # hidden → vocabulary


class Llama:
    """One model; `forward` may be called by one thread at a time.

    A cache must always be used with the same operations: they decide its layout.
    """

    def __init__(
        self, config: ModelConfig, weights: LlamaWeights, operations: Operations | None = None
    ) -> None:
        self.config = config
        self.compute_dtype = weights.embedding.dtype
        self._weights = weights
        self._operations = operations or TorchOperations(config, self.compute_dtype)

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
        return self._weights.embedding.nbytes + linear_bytes

    @torch.no_grad()
    def forward(self, packed: PackedInput, cache: KVCache) -> Tensor:
        """Run one step: write keys and values of all rows to the cache, return the logits.

        The logits (S, vocabulary) are float32, one row per `packed.sample_rows`.
        """
        run = self._operations
        attend = run.attention(packed, cache)
        x = F.embedding(packed.token_ids, self._weights.embedding)  # (T, hidden)
        delta: Rows | None = None  # the last matmul's result, not yet added to x
        for index, layer in enumerate(self._weights.layers):
            normed = run.add_norm(x, delta, layer.attention_norm, quantize=layer.qkv.takes_bytes)
            attended = attend(index, layer.qkv(normed), quantize=layer.output.takes_bytes)
            delta = layer.output(attended)
            normed = run.add_norm(x, delta, layer.mlp_norm, quantize=layer.gate_up.takes_bytes)
            gated = run.gate(layer.gate_up(normed), quantize=layer.down.takes_bytes)
            delta = layer.down(gated)
        head = self._weights.lm_head
        x = x.index_select(0, packed.sample_rows)  # (S, hidden)
        delta = None if delta is None else delta.select(packed.sample_rows)
        normed = run.add_norm(x, delta, self._weights.norm, quantize=head.takes_bytes)
        return head(normed).applied().float()

    @property
    def _linears(self) -> list[Linear]:
        linears = [self._weights.lm_head]
        for layer in self._weights.layers:
            linears += [layer.qkv, layer.output, layer.gate_up, layer.down]
        return linears
