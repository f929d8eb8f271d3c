"""A transformers model without weights, built from what config.json is allowed to say.

transformers' own reading of config.json is passed by: its release for IPEX knows neither the rotary
parameters as newer ones write them nor the project's list of what may be asked for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from models.errors import UnsupportedModel
from worker.llm.config import ModelConfig
from worker.llm.rope import Llama3Scaling, RopeScaling

MODEL_TYPES = ("llama", "mistral")
BLOCK_OUTPUTS = 32  # of a packed weight; IPEX's fused operations cannot leave a part of one out


def build_skeleton(config: ModelConfig, context_tokens: int) -> Any:
    """The model on torch's meta device, but for what is computed and not stored.

    IPEX keeps tables for every position of every layer, so `context_tokens` bounds them. Raises
    UnsupportedModel for what IPEX computes otherwise than transformers.
    """
    _refuse_shapes(config)
    llama = config.model_type == "llama"
    settings: Any = (LlamaConfig if llama else MistralConfig)(**_settings(config, context_tokens))
    settings.architectures = ["LlamaForCausalLM" if llama else "MistralForCausalLM"]
    with torch.device("meta"):
        model = (LlamaForCausalLM if llama else MistralForCausalLM)(settings)
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config=settings)
    return model.eval()


def linear_layers(model: Any) -> dict[str, nn.Linear]:
    """What gets quantized, by name, in the order of the model."""
    return {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}


def other_parameters(model: Any) -> list[str]:
    """The names of the parameters that are not of linear layers: embeddings and norms."""
    linears = linear_layers(model)
    names = dict(model.named_parameters(remove_duplicate=False))
    return [name for name in names if name.rpartition(".")[0] not in linears]


def put_parameter(model: Any, name: str, tensor: Tensor) -> None:
    """Make `tensor` the parameter of that name."""
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, nn.Parameter(tensor, requires_grad=False))


def _refuse_shapes(config: ModelConfig) -> None:
    """IPEX would fail in the middle of a batch, or compute something else."""
    turns_partly = config.rope.rotary_share != 1.0
    if config.model_type not in MODEL_TYPES or config.kinds or turns_partly:
        raise UnsupportedModel(
            f"the ipex backend has {' and '.join(MODEL_TYPES)} whose layers are all alike, not "
            f"{config.model_type} as it is here: use the native backend"
        )
    if config.hidden_size != config.num_heads * config.head_dim:
        raise UnsupportedModel(
            f"IPEX cannot compute {config.num_heads} heads of {config.head_dim} in a model of "
            f"width {config.hidden_size}: use the native backend"
        )
    for name, size in (("hidden", config.hidden_size), ("intermediate", config.intermediate_size)):
        if size % BLOCK_OUTPUTS:
            raise UnsupportedModel(
                f"IPEX needs layers of multiples of {BLOCK_OUTPUTS}, {name}_size is {size}: "
                "use the native backend"
            )


def _settings(config: ModelConfig, context_tokens: int) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": min(config.max_position_embeddings, context_tokens),
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope.theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        # IPEX's `generate` would end answers at these also where the call asks for other ends.
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
    }
    if config.model_type == "mistral":
        return {**settings, "sliding_window": None}
    settings |= {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}
    return {**settings, "rope_scaling": _rope_scaling(config.rope.scaling)}


def _rope_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    if not isinstance(scaling, Llama3Scaling):
        raise UnsupportedModel(
            "the ipex backend knows the rope scaling of Llama 3 alone: use the native backend"
        )
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_position_embeddings,
    }
