"""The memory of the paged KV cache: one key and one value tensor per layer.

Holds no table of who owns which block: that is the engine's block manager.
"""

from __future__ import annotations

import contextlib
import mmap

import torch
from torch import Tensor

from models.errors import SettingsError
from worker.llm.config import ModelConfig


class KVCache:
    """`num_blocks` blocks of `block_tokens` slots each; slot = block * block_tokens + offset.

    Its memory starts as zeros and is taken from the system page by page, when it is first used.
    Raises SettingsError when the system refuses it.
    """

    def __init__(
        self, config: ModelConfig, num_blocks: int, block_tokens: int, dtype: torch.dtype
    ) -> None:
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self.dtype = dtype
        layers, slots = config.num_layers, num_blocks * block_tokens
        memory = _map_memory(num_blocks * block_bytes(config, block_tokens, dtype))
        tensors = torch.frombuffer(memory, dtype=dtype).view(
            2 * layers, slots, config.num_kv_heads, config.head_dim
        )
        self.keys = tuple(tensors[:layers])  # (slots, kv heads, d) each
        self.values = tuple(tensors[layers:])

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store the keys and values (T, kv heads, d) of one layer at `slots` (T,)."""
        self.keys[layer].index_copy_(0, slots, keys)
        self.values[layer].index_copy_(0, slots, values)


def block_bytes(config: ModelConfig, block_tokens: int, dtype: torch.dtype) -> int:
    """Memory of one block over all layers, keys and values."""
    elements = config.num_layers * block_tokens * config.num_kv_heads * config.head_dim
    return 2 * elements * dtype.itemsize


def _map_memory(size_bytes: int) -> mmap.mmap:
    """Zeros; in huge pages where the system has them, which spares the CPU address look-ups."""
    try:
        memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as exc:
        raise SettingsError(
            f"the system gives no {size_bytes} bytes for the KV cache ({exc}): "
            "set NIGHTSHIFT_KV_CACHE_BYTES to less"
        ) from exc
    with contextlib.suppress(AttributeError, OSError):  # a system or a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
