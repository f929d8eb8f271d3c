"""What happens between two matmuls: the seam between the decoder and how its steps are computed.

The reference implementation here is PyTorch alone, for every dtype and every machine, and leaves
quantizing to the matmul; the one in `native/` does the same in fewer passes over memory.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from worker.llm.attention import attend, plan_attention
from worker.llm.config import ModelConfig
from worker.llm.kv_cache import KVCache
from worker.llm.packed import PackedInput
from worker.llm.rotary import rotary_frequencies, rotation
from worker.llm.rows import Rows


class Attention(Protocol):
    """The attention of one step, used by every layer in turn."""

    def __call__(self, layer: int, qkv: Rows, *, quantize: bool) -> Rows:
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
        """silu(gate) * up of rows (T, 2 * intermediate)."""
        ...


class TorchOperations:
    """Norms, rotary angles and the softmax in float32, as in transformers."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self._config = config
        self._dtype = dtype
        self._frequencies = rotary_frequencies(config)  # (d / 2,)

    def attention(self, packed: PackedInput, cache: KVCache) -> Attention:
        """Plan the step; see `worker.llm.attention`."""
        shape = self._config
        plan = plan_attention(packed, cache.block_tokens, self._dtype)
        cos, sin = (
            x.to(self._dtype).unsqueeze(1) for x in rotation(packed.positions, self._frequencies)
        )  # (T, 1, d / 2)

        def run(layer: int, qkv: Rows, *, quantize: bool) -> Rows:  # noqa: ARG001
            split = qkv.applied().view(-1, shape.num_heads + 2 * shape.num_kv_heads, shape.head_dim)
            turned = shape.num_heads + shape.num_kv_heads  # queries and keys at once
            rotated = rotate(split[:, :turned], cos, sin)
            query, keys = rotated[:, : shape.num_heads], rotated[:, shape.num_heads :]
            cache.write(layer, packed.slots, keys, split[:, turned:])
            out = attend(query, cache.keys[layer], cache.values[layer], plan)  # (T, heads, d)
            return Rows(out.flatten(1))

        return run

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
        return Rows(F.silu(gate) * up)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension; the mean of squares in float32."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (T, heads, d): element i turns with element i + d / 2."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
