"""The decoder against transformers' own, over a paged cache with blocks of four tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.model_key import Weights
from tests.llm.paged_session import BLOCK_TOKENS, Session, assert_logits_of, random_sequences
from tests.llm.tiny_models import CONFIGURATIONS, in_memory, make_reference, save_reference
from worker.llm.attention import MAX_GROUP_TOKENS, MAX_PADDING, plan_attention
from worker.llm.config import ModelConfig
from worker.llm.kv_cache import KVCache, block_bytes
from worker.llm.packed import Segment, pack_step


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_mixed_chunks_and_decodes_give_the_logits_of_transformers(
    name: str, tmp_path: Path
) -> None:
    reference = make_reference(**CONFIGURATIONS[name])
    model = in_memory(save_reference(reference, tmp_path), Weights.FP32)
    assert_logits_of(reference, model, 2e-5)


@pytest.mark.parametrize("weights", [Weights.FP32, Weights.INT8])
def test_what_others_left_in_the_cache_is_never_read(weights: Weights, tmp_path: Path) -> None:
    model = in_memory(save_reference(make_reference(), tmp_path), weights)
    sequences = random_sequences([5, 18, 22])
    clean, dirty = Session(model, sequences), Session(model, sequences)
    for tensor in (*dirty.cache.keys, *dirty.cache.values):
        tensor.fill_(float("nan"))
    for lengths in ({0: 3, 1: 17, 2: 20}, {0: 1, 1: 1, 2: 1}, {0: 1, 2: 1}):
        assert torch.equal(dirty.step(lengths), clean.step(lengths))


def test_only_sampled_rows_have_logits(tmp_path: Path) -> None:
    model = in_memory(save_reference(make_reference(), tmp_path), Weights.FP32)
    cache = KVCache(model.config, 4, BLOCK_TOKENS, torch.float32)
    segments = [Segment([5, 6], 0, [2], False), Segment([7], 0, [0], True)]
    assert model.forward(pack_step(segments, BLOCK_TOKENS), cache).shape == (1, 97)
    nothing = pack_step([Segment([8], 2, [2], False)], BLOCK_TOKENS)
    assert model.forward(nothing, cache).shape == (0, 97)


def test_a_step_is_packed_without_padding() -> None:
    packed = pack_step(
        [Segment([5, 6, 7], 3, [9, 4], True), Segment([8], 0, [1], False)], BLOCK_TOKENS
    )
    assert packed.token_ids.tolist() == [5, 6, 7, 8]
    assert packed.positions.tolist() == [3, 4, 5, 0]
    assert packed.slots.tolist() == [39, 16, 17, 4]
    assert packed.sample_rows.tolist() == [2]
    assert [(s.start, s.length, s.context) for s in packed.spans] == [(0, 3, 6), (3, 1, 1)]


def test_a_cache_takes_the_memory_it_says() -> None:
    config = ModelConfig("llama", 64, 112, 3, 4, 2, 16, 97, 512)
    cache = KVCache(config, 5, BLOCK_TOKENS, torch.bfloat16)
    held = sum(tensor.nbytes for tensor in (*cache.keys, *cache.values))
    assert held == 5 * block_bytes(config, BLOCK_TOKENS, torch.bfloat16)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60))
def test_decodes_are_grouped_once_each_with_little_padding(contexts: list[int]) -> None:
    blocks = list(range(-(-max(contexts) // 16)))
    segments = [Segment([1], context - 1, blocks, True) for context in contexts]
    plan = plan_attention(pack_step(segments, 16), 16, torch.float32)
    rows = [row for group in plan.groups for row in group.rows.tolist()]
    assert sorted(rows) == list(range(len(contexts)))
    for group in plan.groups:
        own = [contexts[row] for row in group.rows.tolist()]
        assert group.slots.numel() <= MAX_PADDING * sum(own)
        assert len(own) == 1 or group.slots.numel() <= MAX_GROUP_TOKENS
