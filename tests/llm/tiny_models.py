"""Small random models in Hugging Face format, made by transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from models.model_key import Weights
from worker.llm.checkpoint import Checkpoint
from worker.llm.config import read_model_config
from worker.llm.convert import convert
from worker.llm.decoder import Decoder
from worker.llm.loading import build_model
from worker.llm.native.kernels import Kernels

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "mha": {"num_key_value_heads": 4},
    "gqa": {"num_key_value_heads": 2},
    "mqa": {"num_key_value_heads": 1},
    "tied": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "llama3-rope": {"num_key_value_heads": 2, "rope_parameters": LLAMA3_ROPE},
    "biases": {"num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
    "wide-heads": {"num_key_value_heads": 2, "head_dim": 32},
}


def make_model(kind: str, **options: Any) -> PreTrainedModel:
    """A random model of a `model_type`, its weights large enough that logits differ clearly."""
    torch.manual_seed(7)
    settings: dict[str, Any] = {
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "initializer_range": 0.15,
    }
    config = CONFIG_MAPPING[kind](**(settings | options))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name or "ln_" in name:  # they start as 0 and 1
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def make_reference(**options: Any) -> PreTrainedModel:
    """A Llama; without a padding token, as most are."""
    return make_model("llama", **{"num_key_value_heads": 2, "pad_token_id": None} | options)


def save_reference(model: PreTrainedModel, folder: Path) -> Path:
    """Write the model as a Hugging Face folder."""
    model.save_pretrained(folder)
    return folder


def in_memory(folder: Path, weights: Weights, kernels: Kernels | None = None) -> Decoder:
    """Our model of a folder, without an artifact between."""
    config = read_model_config(folder)
    stored = dict(convert(config, weights, Checkpoint(folder)))
    return build_model(config, weights, stored, kernels)
