"""What happens between two matmuls: the seam between the decoder and how its steps are computed.

The reference implementation here is PyTorch alone, for every dtype and every machine, and leaves
quantizing to the matmul; the one in `native/` does the same in fewer passes over memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from worker.llm.attention import attend, plan_attention
from worker.llm.config import ModelConfig
from worker.llm.kv_cache import KVCache
from worker.llm.packed import PackedInput
from worker.llm.rope import Rope
from worker.llm.rotary import rotary_frequencies, rotation
from worker.llm.rows import Rows


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """RMS norms of queries and keys before they turn: of each head, or of all heads together."""

    query: Tensor  # (d,) or (heads * d,)
    key: Tensor  # (d,) or (kv heads * d,)


class Attention(Protocol):
    """The attention of one step, used by every layer in turn."""

    def __call__(self, layer: int, qkv: Rows, norms: HeadNorms | None, *, quantize: bool) -> Rows:
        """Write the rows' keys and values to the cache, then attend; (T, heads * d)."""
        ...


class Operations(Protocol):
    """`quantize` asks for rows as bytes; an implementation may leave that to the matmul."""

    def attention(self, packed: PackedInput, cache: KVCache) -> Attention:
        """Prepare the attention of one step."""
        ...

    def add_norm(
        self, residual: Tensor, delta: Rows | None, weight: Tensor, *, quantize: bool
    ) -> Rows:
        """residual (T, hidden) += delta in place; returns its RMS norm times `weight`."""
        ...

    def gate(self, gate_up: Rows, *, quantize: bool) -> Rows:
        """activation(gate) * up of rows (T, 2 * intermediate)."""
        ...


class TorchOperations:
    """Norms, rotary angles and the softmax in float32, as in transformers."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self._config = config
        self._dtype = dtype
        self._kinds = [config.kind(layer) for layer in range(config.num_layers)]
        self._frequencies = {
            rope: rotary_frequencies(rope, config.head_dim)  # (r / 2,)
            for rope in {kind.rope for kind in self._kinds}
            if rope is not None
        }

    def attention(self, packed: PackedInput, cache: KVCache) -> Attention:
        """Plan the step once for each kind of layer; see `worker.llm.attention`."""
        shape = self._config
        turned = shape.num_heads + shape.num_kv_heads  # queries and keys
        plans = {
            window: plan_attention(packed, cache.block_tokens, self._dtype, window)
            for window in {kind.window_tokens for kind in self._kinds}
        }
        turns = self._turns(packed.positions)

        def run(layer: int, qkv: Rows, norms: HeadNorms | None, *, quantize: bool) -> Rows:  # noqa: ARG001
            kind = self._kinds[layer]
            split = qkv.applied().view(-1, turned + shape.num_kv_heads, shape.head_dim)
            values = split[:, turned:]
            heads = split[:, :turned] if norms is None else self._normed(split[:, :turned], norms)
            if kind.rope is not None:
                heads = rotate(heads, *turns[kind.rope])
            query, keys = heads[:, : shape.num_heads], heads[:, shape.num_heads :]
            cache.write(layer, packed.slots, keys, values)
            out = attend(
                query,
                cache.keys[layer],
                cache.values[layer],
                plans[kind.window_tokens],
                shape.attention_softcap,
            )  # (T, heads, d)
            return Rows(out.flatten(1))

        return run

    def _turns(self, positions: Tensor) -> Mapping[Rope, tuple[Tensor, Tensor]]:
        """Cosine and sine (T, 1, r / 2) of the rows, for each kind of rope."""
        turns = {}
        for rope, frequencies in self._frequencies.items():
            cos, sin = rotation(positions, frequencies, rope)
            turns[rope] = (cos.to(self._dtype).unsqueeze(1), sin.to(self._dtype).unsqueeze(1))
        return turns

    def _normed(self, heads: Tensor, norms: HeadNorms) -> Tensor:
        """Normed queries and keys (T, heads + kv heads, d)."""
        parts = heads.tensor_split((self._config.num_heads,), dim=1)
        eps = self._config.rms_norm_eps
        normed = []
        for part, weight in zip(parts, (norms.query, norms.key), strict=True):
            rows = part.flatten(1) if self._config.head_norm == "width" else part
            normed.append(rms_norm(rows, weight, eps).view(part.shape))
        return torch.cat(normed, dim=1)

    def add_norm(
        self,
        residual: Tensor,
        delta: Rows | None,
        weight: Tensor,
        *,
        quantize: bool,  # noqa: ARG002
    ) -> Rows:
        """The mean of squares in float32, the product in the compute dtype."""
        if delta is not None:
            residual.add_(delta.applied())
        return Rows(rms_norm(residual, weight, self._config.rms_norm_eps))

    def gate(self, gate_up: Rows, *, quantize: bool) -> Rows:  # noqa: ARG002
        """In the compute dtype."""
        gate, up = gate_up.applied().chunk(2, dim=-1)
        if self._config.activation == "silu":
            return Rows(F.silu(gate) * up)
        return Rows(F.gelu(gate, approximate="tanh") * up)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension; the mean of squares in float32."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (T, heads, d): of the first r, element i turns with i + r / 2."""
    rotary_dim = 2 * cos.size(-1)
    first, second = x[..., :rotary_dim].chunk(2, dim=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat((*turned, x[..., rotary_dim:]), dim=-1)
