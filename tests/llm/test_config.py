"""What config.json and generation_config.json may say, in old and new forms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import LlamaConfig

from models.errors import NotFoundError, UnsafeModel, UnsupportedModel
from tests.llm.tiny_models import LLAMA3_ROPE
from worker.llm.config import kept_config, parse_model_config, read_model_config
from worker.llm.generation_defaults import (
    GenerationDefaults,
    parse_generation_defaults,
    read_generation_defaults,
)
from worker.llm.rope import Llama3Scaling

BASE: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 97,
}
SCALING = Llama3Scaling(8.0, 1.0, 4.0, 8192)


def test_what_is_left_out_has_the_defaults_of_transformers() -> None:
    ours = parse_model_config(BASE)
    theirs = LlamaConfig(**{key: value for key, value in BASE.items() if key != "model_type"})
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == theirs.head_dim
    assert ours.max_position_embeddings == theirs.max_position_embeddings
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert ours.rope.theta == theirs.rope_parameters["rope_theta"]
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    assert (ours.qkv_bias, ours.mlp_bias) == (theirs.attention_bias, theirs.mlp_bias)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        {"rope_theta": 500000.0, "rope_scaling": {"type": "llama3", "factor": 8}},
        {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0}},
    ],
)
def test_rope_scaling_is_read_in_old_and_new_form(rope: dict[str, object]) -> None:
    for value in rope.values():
        if isinstance(value, dict):
            value |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 8192}  # fmt: skip
    config = parse_model_config(BASE | rope)
    assert config.rope.theta == 500000.0
    assert config.rope.scaling == SCALING


def test_what_transformers_writes_is_read(tmp_path: Path) -> None:
    LlamaConfig(rope_parameters=LLAMA3_ROPE, eos_token_id=[2, 5], tie_word_embeddings=True,
                dtype="bfloat16", head_dim=32).save_pretrained(tmp_path)  # fmt: skip
    config = read_model_config(tmp_path)
    assert config.rope.scaling == Llama3Scaling(4.0, 1.0, 4.0, 32)
    assert config.eos_token_ids == (2, 5)
    assert config.bos_token_id == 1
    assert config.tie_word_embeddings
    assert config.head_dim == 32


def test_mistral_without_a_window_is_the_same_model() -> None:
    mistral = BASE | {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": None,
                      "max_position_embeddings": 32768}  # fmt: skip
    assert parse_model_config(mistral).num_kv_heads == 2
    assert not parse_model_config(mistral | {"sliding_window": 32768}).kinds
    kinds = parse_model_config(mistral | {"sliding_window": 4096}).kinds
    assert [kind.window_tokens for kind in kinds] == [4096, 4096]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "mamba"}, "transformers"),
        ({"model_type": None}, "llama, mistral"),
        ({"model_type": ["llama"]}, "llama, mistral"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
        ({"architectures": ["LlamaForCausalLM", {"x": "evil.Model"}]}, "architectures"),
        ({"architectures": "LlamaForCausalLM"}, "architectures"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"num_key_value_heads": 3}, "cannot share"),
        ({"head_dim": 15}, "odd"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"attention_bias": "yes"}, "attention_bias"),
        ({"rope_scaling": {"type": "proportional", "factor": 2.0}}, "proportional"),
        ({"rope_scaling": {"type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        ({"rope_scaling": "llama3"}, "rope_scaling"),
        ({"rope_parameters": LLAMA3_ROPE | {"low_freq_factor": 4.0}}, "below"),
        ({"rope_parameters": {"partial_rotary_factor": 1.5}}, "partial"),
        ({"sliding_window": 8}, "sliding_window"),
        ({"quantization_config": {"bits": 4}}, "already quantized"),
    ],
)
def test_what_would_compute_something_else_is_refused(
    change: dict[str, object], reason: str
) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        parse_model_config(BASE | change)


def test_the_models_own_code_is_refused() -> None:
    with pytest.raises(UnsafeModel, match="auto_map"):
        parse_model_config(BASE | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}})


def test_the_code_of_phi_3_is_passed_over_for_our_own() -> None:
    phi = BASE | {"model_type": "phi3"}
    named = phi | {"auto_map": {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}}
    assert parse_model_config(named) == parse_model_config(phi)
    assert "auto_map" not in kept_config(named)


def test_keys_that_name_code_are_passed_on_to_nobody() -> None:
    """Some of these ran code of the Hub in transformers, whatever `trust_remote_code` said."""
    hostile = {
        "_attn_implementation": "org/kernel",
        "_attn_implementation_internal": "org/kernel",
        "attn_implementation": "org/kernel",
        "custom_generate": "org/code",
        "custom_pipelines": {"x": {"impl": "evil.Pipeline"}},
        "experts_implementation": "org/kernel",
        "kernel_config": {"RMSNorm": "org/kernel"},
        "name_or_path": "../../etc",
        "quantization_config": None,
        "tokenizer_class": "Evil",
        "transformers_weights": "evil.bin",
        "trust_remote_code": True,
    }
    assert kept_config({**BASE, **hostile, "auto_map": {"x": "evil.Model"}}) == BASE
    assert parse_model_config({**BASE, **hostile}) == parse_model_config(BASE)


def test_unreadable_configurations_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"config\.json"):
        read_model_config(tmp_path)
    for text in ("{", "[]", "[" * 100_000, '{"x": "' + "y" * (1 << 20) + '"}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UnsupportedModel, match="download the model again"):
            read_model_config(tmp_path)


def test_sampling_defaults_count_only_for_a_model_that_samples() -> None:
    values = {"temperature": 0.6, "top_p": 0.9, "top_k": 40, "min_p": 0.1,
              "repetition_penalty": 1.1, "max_new_tokens": 64, "eos_token_id": [2, 3],
              "pad_token_id": 0}  # fmt: skip
    greedy = GenerationDefaults(repetition_penalty=1.1, max_new_tokens=64, eos_token_ids=(2, 3),
                                pad_token_id=0)  # fmt: skip
    assert parse_generation_defaults(values) == greedy
    assert parse_generation_defaults(values | {"do_sample": False}) == replace(
        greedy, do_sample=False
    )
    assert parse_generation_defaults(values | {"do_sample": True}) == replace(
        greedy, do_sample=True, temperature=0.6, top_p=0.9, top_k=40, min_p=0.1
    )


def test_generation_defaults_out_of_range_are_left_out(tmp_path: Path) -> None:
    assert read_generation_defaults(tmp_path) == GenerationDefaults()
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"do_sample": True, "temperature": -1, "top_p": "x", "top_k": None,
                                "repetition_penalty": True, "eos_token_id": "2"}))  # fmt: skip
    assert read_generation_defaults(tmp_path) == GenerationDefaults(do_sample=True)
    path.write_text("{")
    with pytest.raises(UnsupportedModel, match="not JSON"):
        read_generation_defaults(tmp_path)
