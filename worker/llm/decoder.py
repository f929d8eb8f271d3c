"""The decoder of all families on packed rows and a paged cache.

Tensors only: which sequences run, and what is done with the logits, is the engine's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from worker.llm.attention import soft_capped
from worker.llm.config import ModelConfig
from worker.llm.kv_cache import KVCache
from worker.llm.linear import Linear
from worker.llm.operations import HeadNorms, Operations, TorchOperations, rms_norm
from worker.llm.packed import PackedInput
from worker.llm.rows import Rows


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """The weights of one layer; qkv and gate_up are concatenated along their outputs.

    Norms stand before the layer's two blocks, after them, or both; those that are not there are
    None.
    """

    qkv: Linear  # hidden → (heads + 2 * kv heads) * d
    output: Linear  # heads * d → hidden
    gate_up: Linear  # hidden → 2 * intermediate
    down: Linear  # intermediate → hidden
    attention_norm: Tensor | None = None  # (hidden,)
    attention_post_norm: Tensor | None = None
    mlp_norm: Tensor | None = None
    mlp_post_norm: Tensor | None = None
    head_norms: HeadNorms | None = None


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """All tensors of a model."""

    embedding: Tensor  # (vocabulary, hidden)
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
        x = self._embed(packed.token_ids)  # (T, hidden)
        delta: Rows | None = None  # the last matmul's result, not yet added to x
        for index, layer in enumerate(self._weights.layers):
            normed = self._before(x, delta, layer.attention_norm, layer.qkv)
            qkv = layer.qkv(normed)
            attended = attend(index, qkv, layer.head_norms, quantize=layer.output.takes_bytes)
            delta = self._after(layer.output(attended), layer.attention_post_norm)
            normed = self._before(x, delta, layer.mlp_norm, layer.gate_up)
            gated = run.gate(layer.gate_up(normed), quantize=layer.down.takes_bytes)
            delta = self._after(layer.down(gated), layer.mlp_post_norm)
        head = self._weights.lm_head
        x = x.index_select(0, packed.sample_rows)  # (S, hidden)
        delta = None if delta is None else delta.select(packed.sample_rows)
        logits = head(self._before(x, delta, self._weights.norm, head)).applied().float()
        cap = self.config.logit_softcap
        return logits if cap is None else soft_capped(logits, cap)

    def _embed(self, token_ids: Tensor) -> Tensor:
        embedded = F.embedding(token_ids, self._weights.embedding)
        scale = self.config.embedding_scale
        if scale == 1.0:
            return embedded
        return embedded * torch.tensor(scale, dtype=embedded.dtype)  # rounded first, as trained

    def _before(self, x: Tensor, delta: Rows | None, norm: Tensor | None, linear: Linear) -> Rows:
        """x += delta in place; what goes into the linear layer."""
        if norm is not None:
            return self._operations.add_norm(x, delta, norm, quantize=linear.takes_bytes)
        if delta is not None:
            x.add_(delta.applied())
        return Rows(x)

    def _after(self, delta: Rows, norm: Tensor | None) -> Rows:
        """A block's result, normed where the family norms it."""
        if norm is None:
            return delta
        return Rows(rms_norm(delta.applied(), norm, self.config.rms_norm_eps))

    @property
    def _linears(self) -> list[Linear]:
        linears = [self._weights.lm_head]
        for layer in self._weights.layers:
            linears += [layer.qkv, layer.output, layer.gate_up, layer.down]
        return linears
