"""The steps between two matmuls, compiled: one pass over memory each, bfloat16 in, bytes out."""

from __future__ import annotations

import torch
from torch import Tensor

from worker.llm.config import ModelConfig
from worker.llm.kv_cache import KVCache
from worker.llm.native.kernels import BLOCK_TOKENS, HEAD_DIMS, WIDTH_MULTIPLE, Kernels
from worker.llm.operations import Attention, HeadNorms
from worker.llm.packed import PackedInput, Span
from worker.llm.rotary import rotary_frequencies, rotation
from worker.llm.rows import Rows


def fits(config: ModelConfig, dtype: torch.dtype) -> bool:
    """Whether the kernels are made for a model of this shape."""
    return (
        dtype is torch.bfloat16
        and not config.kinds  # one rope, no windows
        and config.rope.rotary_share == 1.0
        and config.head_norm is None
        and config.norms == "before"
        and config.activation == "silu"
        and config.attention_softcap is None
        and config.head_dim in HEAD_DIMS
        and config.hidden_size % WIDTH_MULTIPLE == 0
        and config.intermediate_size % WIDTH_MULTIPLE == 0
    )


class NativeOperations:
    """See worker.llm.operations.Operations; the cache's memory is laid out as the kernels want."""

    def __init__(self, config: ModelConfig, kernels: Kernels) -> None:
        self._config = config
        self._kernels = kernels
        self._frequencies = rotary_frequencies(config.rope, config.head_dim)  # (d / 2,)

    def attention(self, packed: PackedInput, cache: KVCache) -> Attention:
        """Lay out the step's spans and block tables once for all layers.

        Raises ValueError for blocks that the cache does not have, or of another size.
        """
        kernels, heads = self._kernels, self._config.num_heads
        cos, sin = rotation(packed.positions, self._frequencies, self._config.rope)  # (T, d / 2)
        slots = packed.slots.to(torch.int32)
        spans, tables = _layout(packed.spans)
        _check_blocks(tables, cache)

        def run(layer: int, qkv: Rows, norms: HeadNorms | None, *, quantize: bool) -> Rows:  # noqa: ARG001
            keys, values = self._blocks(cache.keys[layer]), self._blocks(cache.values[layer])
            queries = kernels.rotate_and_cache(
                qkv, cos=cos, sin=sin, slots=slots, keys=keys, values=values, heads=heads
            )
            out = kernels.attend(queries, keys=keys, values=values, spans=spans, tables=tables)
            flat = out.flatten(1)  # (T, heads * d)
            return kernels.quantize(flat) if quantize else Rows(flat)

        return run

    def add_norm(
        self, residual: Tensor, delta: Rows | None, weight: Tensor, *, quantize: bool
    ) -> Rows:
        """Sum, norm and quantization in one pass."""
        eps = self._config.rms_norm_eps
        return self._kernels.add_norm(residual, delta, weight, eps, quantize=quantize)

    def gate(self, gate_up: Rows, *, quantize: bool) -> Rows:
        """Gate and quantization in one pass."""
        return self._kernels.gate(gate_up, quantize=quantize)

    def _blocks(self, memory: Tensor) -> Tensor:
        """One layer's keys or values as (blocks, kv heads, 16 d)."""
        return memory.view(-1, self._config.num_kv_heads, BLOCK_TOKENS * self._config.head_dim)


def _check_blocks(tables: Tensor, cache: KVCache) -> None:
    """Every slot of a step lies in a block of its tables, so these are all there is to look at."""
    if cache.block_tokens != BLOCK_TOKENS:
        raise ValueError(f"blocks hold {cache.block_tokens} tokens: give {BLOCK_TOKENS}")
    first, last = (int(edge) for edge in tables.aminmax())
    if first < 0 or last >= cache.num_blocks:
        raise ValueError(f"blocks {first} to {last} of a cache with {cache.num_blocks} are used")


def _layout(spans: tuple[Span, ...]) -> tuple[Tensor, Tensor]:
    """Spans (n, 4) int32 and their block tables, one after the other."""
    rows: list[tuple[int, int, int, int]] = []
    tables: list[int] = []
    for span in spans:
        rows.append((span.start, span.length, span.context, len(tables)))
        tables.extend(span.blocks[: -(-span.context // BLOCK_TOKENS)])
    return torch.tensor(rows, dtype=torch.int32), torch.tensor(tables, dtype=torch.int32)
