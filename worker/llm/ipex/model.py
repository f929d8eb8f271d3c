"""A quantized model of IPEX, ready for `generate`: put together from stored tensors.

What is loaded is what IPEX would hold after it has quantized: its linear layers are made of the
stored integers, then `ipex.llm.optimize` finds nothing left to quantize and exchanges attention,
norms and fusions. Only `WeightOnlyQuantizedLinear._init_cls` is not public; the pinned release
has it, and a test compares the result with IPEX's own.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import intel_extension_for_pytorch as ipex
import torch
from intel_extension_for_pytorch.nn.modules import WeightOnlyQuantizedLinear
from intel_extension_for_pytorch.quantization import (
    WoqActQuantMode,
    WoqLowpMode,
    get_weight_only_quant_qconfig_mapping,
)
from torch import Tensor, nn

from models.model_key import Weights
from worker.llm.config import ModelConfig
from worker.llm.ipex.quantize import DTYPES, WEIGHT_DTYPES
from worker.llm.ipex.recipe import IpexRecipe
from worker.llm.ipex.skeleton import (
    build_skeleton,
    linear_layers,
    other_parameters,
    put_parameter,
)
from worker.llm.loading import checked_tensor


@dataclass(frozen=True, slots=True)
class IpexModel:
    """A model that `generate` can be called on, and what it is."""

    model: Any  # transformers' LlamaForCausalLM or MistralForCausalLM
    config: ModelConfig
    recipe: IpexRecipe
    context_tokens: int


def build_model(
    config: ModelConfig,
    recipe: IpexRecipe,
    stored: Mapping[str, Tensor],
    context_tokens: int | None = None,
) -> IpexModel:
    """The model of the tensors that `quantized_tensors` yields, by name.

    Raises ArtifactError when one is missing or is not what config.json and recipe ask for.
    """
    context = min(config.max_position_embeddings, context_tokens or config.max_position_embeddings)
    model = build_skeleton(config, context)
    for name in other_parameters(model):
        shape = tuple(model.get_parameter(name).shape)
        put_parameter(model, name, checked_tensor(stored, name, shape, DTYPES[recipe.activations]))
    for name, layer in linear_layers(model).items():
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, _quantized_linear(name, layer, recipe, stored))
    return IpexModel(optimized(model, recipe), config, recipe, context)


def optimized(model: Any, recipe: IpexRecipe, low_precision_checkpoint: Any = None) -> Any:
    """The model in IPEX's form; layers that are not quantized yet are quantized by it, at once."""
    with torch.no_grad():
        model = ipex.llm.optimize(
            model,
            dtype=DTYPES[recipe.activations],
            quantization_config=quantization_config(recipe),
            low_precision_checkpoint=low_precision_checkpoint,
            inplace=True,
            deployment_mode=False,
        )
    for part in model.modules():
        if getattr(part, "concat_linear", None) is not None:
            part.linear_list = []  # the layers that became one, which IPEX would hold on to
    gc.collect()
    return model


def quantization_config(recipe: IpexRecipe) -> Any:
    """The recipe in IPEX's words."""
    return get_weight_only_quant_qconfig_mapping(
        weight_dtype=WEIGHT_DTYPES[recipe.weights],
        lowp_mode=WoqLowpMode[recipe.lowp.name],
        act_quant_mode=WoqActQuantMode[recipe.act_quant.name],
        group_size=recipe.group_size,
    )


def _quantized_linear(
    name: str, layer: nn.Linear, recipe: IpexRecipe, stored: Mapping[str, Tensor]
) -> Any:
    outputs, inputs = layer.out_features, layer.in_features
    parts = stored_layout(outputs, inputs, recipe)
    tensors = {
        part: checked_tensor(stored, f"{name}.{part}", *kind) for part, kind in parts.items()
    }
    if layer.bias is not None:
        layer.bias = nn.Parameter(checked_tensor(stored, f"{name}.bias", (outputs,), torch.float32))
    config = quantization_config(recipe).global_qconfig
    return WeightOnlyQuantizedLinear._init_cls(
        layer,
        WEIGHT_DTYPES[recipe.weights],
        tensors["qweight"],
        tensors["scales"],
        tensors.get("zero_points"),
        None,  # the bias is the layer's
        None,  # no order of inputs
        recipe.group_size,
        config.lowp_mode,
        config.act_quant_mode,
        False,  # no second copy of the weights for large batches
        False,  # not in the packing of GPTQ or AWQ
    )


def stored_layout(
    outputs: int, inputs: int, recipe: IpexRecipe
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of the tensors of a quantized layer without its bias."""
    int8 = recipe.weights is Weights.INT8
    columns = inputs if int8 else (inputs + 1) // 2  # two to a byte
    groups = -(-inputs // recipe.group_size)
    scales = (outputs,) if recipe.group_size == -1 else (outputs, groups)
    layout: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "qweight": ((outputs, columns), torch.int8 if int8 else torch.uint8),
        "scales": (scales, torch.float32),
    }
    return layout if recipe.symmetric else {**layout, "zero_points": (scales, torch.float32)}
