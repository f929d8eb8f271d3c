"""How many blocks the KV cache gets. Torch-free arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import SettingsError

_GIB = 1024**3
_RESERVE_BYTES = 4 * _GIB  # for the system and for the activations of a step
_RESERVE_SHARE = 0.2  # of a machine with less than 20 GiB


@dataclass(frozen=True, slots=True)
class CacheDemand:
    """What the cache is for."""

    block_bytes: int
    block_tokens: int
    max_sequences: int
    context_tokens: int

    @property
    def context_blocks(self) -> int:
        """Blocks of one sequence that fills the context."""
        return -(-self.context_tokens // self.block_tokens)


def reserve_bytes(total_bytes: int) -> int:
    """What is left to the system: 4 GiB, or a fifth of a machine with less than 20 GiB."""
    return min(_RESERVE_BYTES, int(total_bytes * _RESERVE_SHARE))


def blocks_in(demand: CacheDemand, kv_cache_bytes: int) -> int:
    """Blocks in the memory that the settings give. Raises SettingsError for less than one."""
    if kv_cache_bytes < demand.block_bytes:
        raise SettingsError(
            f"NIGHTSHIFT_KV_CACHE_BYTES is {kv_cache_bytes}, less than one block of this model: "
            f"give at least {demand.block_bytes * demand.context_blocks} for a full context"
        )
    return min(kv_cache_bytes // demand.block_bytes, _most_blocks(demand))


def blocks_in_free_memory(demand: CacheDemand, *, free_bytes: int, total_bytes: int) -> int:
    """Blocks in free memory less a reserve, never more than all sequences could fill.

    Where the reserve leaves less than a quarter of what is free, the cache takes that quarter.
    Raises SettingsError when not even one block fits.
    """
    budget = max(free_bytes - reserve_bytes(total_bytes), free_bytes // 4)
    if budget < demand.block_bytes:
        raise SettingsError(
            f"{free_bytes} bytes of free memory leave no room for a KV cache: stop other "
            "programs, or use weights that take less memory (int8, int4)"
        )
    return min(budget // demand.block_bytes, _most_blocks(demand))


def _most_blocks(demand: CacheDemand) -> int:
    return demand.max_sequences * demand.context_blocks
