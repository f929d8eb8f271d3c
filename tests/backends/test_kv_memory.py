"""The KV cache takes what is free less a reserve, and never more than could be used."""

from __future__ import annotations

import pytest

from models.errors import SettingsError
from worker.backends.kv_memory import CacheDemand, blocks_in, blocks_in_free_memory

GIB = 1024**3
MIB = 1024**2


def _demand(block_bytes: int = MIB, max_sequences: int = 96, context: int = 8192) -> CacheDemand:
    return CacheDemand(block_bytes, 16, max_sequences, context)


def test_four_gib_of_a_big_machine_are_left() -> None:
    blocks = blocks_in_free_memory(_demand(), free_bytes=20 * GIB, total_bytes=64 * GIB)
    assert blocks == 16 * 1024


def test_the_reserve_shrinks_with_the_machine() -> None:
    blocks = blocks_in_free_memory(_demand(), free_bytes=5 * GIB, total_bytes=10 * GIB)
    assert blocks == 3 * 1024


def test_a_quarter_of_little_free_memory_is_taken() -> None:
    blocks = blocks_in_free_memory(_demand(), free_bytes=4 * GIB, total_bytes=64 * GIB)
    assert blocks == 1024


def test_never_more_than_all_sequences_can_fill() -> None:
    demand = _demand(max_sequences=3, context=100)
    blocks = blocks_in_free_memory(demand, free_bytes=60 * GIB, total_bytes=64 * GIB)
    assert blocks == 3 * 7
    assert blocks_in(demand, 60 * GIB) == 3 * 7


def test_a_given_size_is_kept() -> None:
    assert blocks_in(_demand(), 100 * MIB + 5) == 100


def test_no_room_for_one_block_is_an_error_that_names_what_to_do() -> None:
    with pytest.raises(SettingsError, match="NIGHTSHIFT_KV_CACHE_BYTES"):
        blocks_in(_demand(), MIB - 1)
    with pytest.raises(SettingsError, match="int8"):
        blocks_in_free_memory(_demand(), free_bytes=MIB, total_bytes=64 * GIB)
