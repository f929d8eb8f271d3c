"""Every family of the native decoder against transformers, on random models in fp32.

What config.json does not say, transformers writes; what older checkpoints left out is in
test_config.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from models.model_key import Weights
from tests.llm.paged_session import Session, assert_logits_of, random_sequences
from tests.llm.tiny_models import in_memory, make_model
from worker.llm.config import kept_config, parse_model_config, read_config_json, read_model_config
from worker.llm.families import FAMILIES

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
        "original_max_position_embeddings": 64}  # fmt: skip
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
            "short_factor": [1.0, 1.1, 1.3, 1.7, 2.0, 2.5], "long_factor": [1.0] * 6,
            "original_max_position_embeddings": 128}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0,
                                                         "rope_theta": 10000.0}}),
    "llama, dynamic rope": ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0,
                                                          "rope_theta": 10000.0}}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, window": ("mistral", {"sliding_window": 11}),
    "qwen2": ("qwen2", {}),
    "qwen2, yarn": ("qwen2", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "qwen2, window": ("qwen2", {"use_sliding_window": True, "sliding_window": 7,
                                "max_window_layers": 1}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "phi3": ("phi3", {"sliding_window": 33}),
    "phi3, longrope": ("phi3", {"rope_parameters": LONGROPE, "num_key_value_heads": 4}),
    "gemma2": ("gemma2", {"head_dim": 32, "query_pre_attn_scalar": 20, "sliding_window": 9,
                          "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("gemma3_text", {"head_dim": 32, "query_pre_attn_scalar": 20, "sliding_window": 13,
                               "num_hidden_layers": 6, "_sliding_window_pattern": 3}),
    "olmo2": ("olmo2", {}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4, "no_rope_layer_interval": 2}),
}  # fmt: skip


def make(name: str) -> PreTrainedModel:
    """The random model of that name."""
    kind, options = MODELS[name]
    return make_model(kind, **{"num_key_value_heads": 2, "max_position_embeddings": 256} | options)


def test_every_family_is_compared() -> None:
    assert {kind for kind, _ in MODELS.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", MODELS)
def test_mixed_chunks_and_decodes_give_the_logits_of_transformers(
    name: str, tmp_path: Path
) -> None:
    reference = make(name)
    reference.save_pretrained(tmp_path)
    assert_logits_of(reference, in_memory(tmp_path, Weights.FP32), 1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_are_those_of_generate(name: str, tmp_path: Path) -> None:
    reference = make(name)
    reference.save_pretrained(tmp_path)
    prompts = random_sequences([5, 31])
    sequences = [list(prompt) for prompt in prompts]
    session = Session(in_memory(tmp_path, Weights.FP32), sequences)
    lengths = {index: len(prompt) for index, prompt in enumerate(prompts)}
    for _ in range(24):
        for index, row in enumerate(session.step(lengths)):
            sequences[index].append(int(row.argmax()))
        lengths = dict.fromkeys(lengths, 1)
    for prompt, found in zip(prompts, sequences, strict=True):
        ids = reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            min_new_tokens=24,
            max_new_tokens=24,
            suppress_tokens=None,
            eos_token_id=None,
        )
        assert ids[0].tolist() == found


@pytest.mark.parametrize("name", MODELS)
def test_int8_comes_close_and_int4_does_not_go_far(name: str, tmp_path: Path) -> None:
    make(name).save_pretrained(tmp_path)
    tokens = random_sequences([24])
    full = Session(in_memory(tmp_path, Weights.FP32), tokens).step({0: 24})[0]
    errors = {}
    for weights in (Weights.BF16, Weights.INT8, Weights.INT4):
        logits = Session(in_memory(tmp_path, weights), tokens).step({0: 24})[0]
        errors[weights] = ((logits - full).norm() / full.norm()).item()
    assert errors[Weights.BF16] < 0.1
    assert errors[Weights.INT8] < 0.15
    assert errors[Weights.INT8] < errors[Weights.INT4] < 0.8


@pytest.mark.parametrize("name", MODELS)
def test_an_artifact_keeps_all_that_the_family_reads(name: str, tmp_path: Path) -> None:
    make(name).save_pretrained(tmp_path)
    raw = read_config_json(tmp_path)
    assert parse_model_config(kept_config(raw)) == read_model_config(tmp_path)
