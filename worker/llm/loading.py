"""From stored tensors to a model that runs; quantizes nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.errors import ArtifactError
from models.model_key import Weights
from worker.llm.config import ModelConfig
from worker.llm.linear import Linear, build_linear
from worker.llm.llama import DecoderLayer, Llama, LlamaWeights


def build_model(config: ModelConfig, weights: Weights, stored: Mapping[str, Tensor]) -> Llama:
    """The model of the tensors that `convert` yields, by name.

    Raises ArtifactError when one is missing.
    """
    try:
        layers = tuple(
            _build_layer(f"layers.{index}", weights, stored) for index in range(config.num_layers)
        )
        embedding = stored["embedding.weight"]
        head = _build_linear("lm_head", weights, stored, default=embedding)
        held = LlamaWeights(embedding, layers, stored["norm.weight"], head)
    except KeyError as exc:
        raise ArtifactError(
            f"the artifact has no tensor {exc.args[0]}: remove it and add the model again"
        ) from exc
    return Llama(config, held)


def _build_layer(prefix: str, weights: Weights, stored: Mapping[str, Tensor]) -> DecoderLayer:
    return DecoderLayer(
        attention_norm=stored[f"{prefix}.attention_norm.weight"],
        qkv=_build_linear(f"{prefix}.qkv", weights, stored),
        output=_build_linear(f"{prefix}.output", weights, stored),
        mlp_norm=stored[f"{prefix}.mlp_norm.weight"],
        gate_up=_build_linear(f"{prefix}.gate_up", weights, stored),
        down=_build_linear(f"{prefix}.down", weights, stored),
    )


def _build_linear(
    name: str, weights: Weights, stored: Mapping[str, Tensor], default: Tensor | None = None
) -> Linear:
    """The linear layer of that name; `default` is the weight of one that is tied."""
    parts = {
        suffix: stored[f"{name}.{suffix}"]
        for suffix in ("weight", "scale", "bias")
        if f"{name}.{suffix}" in stored
    }
    if "weight" not in parts:
        if default is None or weights not in (Weights.FP32, Weights.BF16):
            raise KeyError(f"{name}.weight")
        parts["weight"] = default
    # int8 logits come out of integers: rounding them to bf16 would only lose
    output_dtype = torch.float32 if name == "lm_head" else torch.bfloat16
    return build_linear(parts, weights, output_dtype=output_dtype)
