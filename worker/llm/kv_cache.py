"""The memory of the paged KV cache: one key and one value tensor per layer.

Holds no table of who owns which block: that is the engine's block manager.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worker.llm.config import ModelConfig


class KVCache:
    """`num_blocks` blocks of `block_tokens` slots each; slot = block * block_tokens + offset."""

    def __init__(
        self, config: ModelConfig, num_blocks: int, block_tokens: int, dtype: torch.dtype
    ) -> None:
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self.dtype = dtype
        shape = (num_blocks * block_tokens, config.num_kv_heads, config.head_dim)
        layers = range(config.num_layers)
        self.keys = tuple(torch.zeros(shape, dtype=dtype) for _ in layers)  # (slots, kv heads, d)
        self.values = tuple(torch.zeros(shape, dtype=dtype) for _ in layers)

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store the keys and values (T, kv heads, d) of one layer at `slots` (T,)."""
        self.keys[layer].index_copy_(0, slots, keys)
        self.values[layer].index_copy_(0, slots, values)


def block_bytes(config: ModelConfig, block_tokens: int, dtype: torch.dtype) -> int:
    """Memory of one block over all layers, keys and values."""
    elements = config.num_layers * block_tokens * config.num_kv_heads * config.head_dim
    return 2 * elements * dtype.itemsize
