"""From a checkpoint's tensors to IPEX's quantized ones, one after the other.

The arithmetic is IPEX's own, the function that its `convert` calls for each layer. Called here
tensor by tensor, memory holds one matrix and never the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from intel_extension_for_pytorch.quantization import (
    WoqWeightDtype,
    quantize_per_block,
    quantize_per_channel,
)
from torch import Tensor, nn

from models.model_key import Weights
from worker.llm.config import ModelConfig
from worker.llm.convert import TensorSource, source_tensor
from worker.llm.ipex.recipe import Activations, IpexRecipe
from worker.llm.ipex.skeleton import build_skeleton, linear_layers, other_parameters

WEIGHT_DTYPES = {Weights.INT8: WoqWeightDtype.INT8, Weights.INT4: WoqWeightDtype.INT4}
DTYPES = {Activations.BF16: torch.bfloat16, Activations.FP32: torch.float32}


def quantized_tensors(
    config: ModelConfig, recipe: IpexRecipe, source: TensorSource
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the quantized model: `LAYER.qweight`, `.scales`, `.zero_points`, `.bias`,
    and embeddings and norms by their names in the checkpoint.

    Raises UnsupportedModel when a tensor is missing or has another shape than config.json says.
    """
    model = build_skeleton(config, context_tokens=1)
    dtype = DTYPES[recipe.activations]
    for name in other_parameters(model):
        shape = tuple(model.get_parameter(name).shape)
        yield name, source_tensor(source, name, shape).to(dtype)
    for name, layer in linear_layers(model).items():
        yield from _quantized_layer(name, layer, config, recipe, source)


def tensor_count(config: ModelConfig, recipe: IpexRecipe) -> int:
    """How many tensors `quantized_tensors` yields."""
    model = build_skeleton(config, context_tokens=1)
    linears = linear_layers(model).values()
    per_linear = 2 if recipe.symmetric else 3
    biases = sum(layer.bias is not None for layer in linears)
    return len(other_parameters(model)) + per_linear * len(linears) + biases


def _quantized_layer(
    name: str, layer: nn.Linear, config: ModelConfig, recipe: IpexRecipe, source: TensorSource
) -> Iterator[tuple[str, Tensor]]:
    tied = config.tie_word_embeddings and name == "lm_head"
    stored = "model.embed_tokens.weight" if tied else f"{name}.weight"
    shape = (layer.out_features, layer.in_features)
    weight = source_tensor(source, stored, shape).to(torch.float32)
    qweight, scales, zero_points = _quantize(weight, recipe)
    yield f"{name}.qweight", qweight
    yield f"{name}.scales", scales
    if zero_points is not None:
        yield f"{name}.zero_points", zero_points
    if layer.bias is not None:
        yield f"{name}.bias", source_tensor(source, f"{name}.bias", shape[:1]).to(torch.float32)


def _quantize(weight: Tensor, recipe: IpexRecipe) -> tuple[Tensor, Tensor, Tensor | None]:
    dtype = WEIGHT_DTYPES[recipe.weights]
    symmetric = recipe.symmetric
    found: Any
    if recipe.group_size == -1:
        found = quantize_per_channel(weight, dtype, sym_quant=symmetric)
    else:
        found = quantize_per_block(weight, dtype, recipe.group_size, sym_quant=symmetric)
    qweight, scales, zero_points = found
    return qweight, scales, zero_points
