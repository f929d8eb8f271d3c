"""The Llama family's decoder on packed rows and a paged cache.

Tensors only: which sequences run, and what is done with the logits, is the engine's business.
Norms, rotary angles and the softmax are computed in float32, as in transformers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from worker.llm.attention import AttentionPlan, attend, plan_attention
from worker.llm.config import ModelConfig, RopeScaling
from worker.llm.kv_cache import KVCache
from worker.llm.linear import Linear
from worker.llm.packed import PackedInput


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
    """One model; `forward` may be called by one thread at a time."""

    def __init__(self, config: ModelConfig, weights: LlamaWeights) -> None:
        self.config = config
        self.compute_dtype = weights.embedding.dtype
        self._weights = weights
        self._frequencies = rotary_frequencies(config)  # (d / 2,)

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights."""
        held = self._weights
        linears = [held.lm_head]
        for layer in held.layers:
            linears += [layer.qkv, layer.output, layer.gate_up, layer.down]
        return held.embedding.nbytes + sum(linear.weight_bytes for linear in linears)

    @torch.no_grad()
    def forward(self, packed: PackedInput, cache: KVCache) -> Tensor:
        """Run one step: write keys and values of all rows to the cache, return the logits.

        The logits (S, vocabulary) are float32, one row per `packed.sample_rows`.
        """
        plan = plan_attention(packed, cache.block_tokens, self.compute_dtype)
        rotation = self._rotation(packed.positions)
        x = F.embedding(packed.token_ids, self._weights.embedding)  # (T, hidden)
        for index, layer in enumerate(self._weights.layers):
            normed = rms_norm(x, layer.attention_norm, self.config.rms_norm_eps)
            qkv = layer.qkv(normed)
            x = x + layer.output(self._attention(index, qkv, rotation, packed.slots, cache, plan))
            normed = rms_norm(x, layer.mlp_norm, self.config.rms_norm_eps)
            gate, up = layer.gate_up(normed).chunk(2, dim=-1)
            x = x + layer.down(F.silu(gate) * up)
        x = x.index_select(0, packed.sample_rows)  # (S, hidden)
        return self._weights.lm_head(
            rms_norm(x, self._weights.norm, self.config.rms_norm_eps)
        ).float()

    def _attention(
        self,
        layer: int,
        qkv: Tensor,
        rotation: tuple[Tensor, Tensor],
        slots: Tensor,
        cache: KVCache,
        plan: AttentionPlan,
    ) -> Tensor:
        heads, kv_heads = self.config.num_heads, self.config.num_kv_heads
        qkv = qkv.view(-1, heads + 2 * kv_heads, self.config.head_dim)
        rotated = rotate(qkv[:, : heads + kv_heads], *rotation)  # queries and keys at once
        query, keys = rotated[:, :heads], rotated[:, heads:]
        cache.write(layer, slots, keys, qkv[:, heads + kv_heads :])
        out = attend(query, cache.keys[layer], cache.values[layer], plan)  # (T, heads, d)
        return out.flatten(1)

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine (T, 1, d / 2), computed in float32."""
        angles = positions.float().unsqueeze(1) * self._frequencies
        cos, sin = angles.cos(), angles.sin()
        return cos.to(self.compute_dtype).unsqueeze(1), sin.to(self.compute_dtype).unsqueeze(1)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension; the mean of squares in float32."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (T, heads, d): element i turns with element i + d / 2."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def rotary_frequencies(config: ModelConfig) -> Tensor:
    """The angle per position of each pair of elements (d / 2,), in float32."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    if config.rope_scaling is None:
        return frequencies
    return _stretched(frequencies, config.rope_scaling)


def _stretched(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1: slow frequencies divided by `factor`, fast ones kept, a ramp between.

    Source: "The Llama 3 Herd of Models" and the reference code released with Llama 3.1.
    """
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_max_position_embeddings / wavelengths
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    ramp = ((turns - low) / (high - low)).clamp(0, 1)  # 0: slow, 1: fast
    return (1 - ramp) * frequencies / scaling.factor + ramp * frequencies
