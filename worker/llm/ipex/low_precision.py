"""Checkpoints that GPTQ or AWQ has quantized to 4 bits, run by IPEX as they are.

IPEX unpacks and repacks them while it loads; nothing is quantized anew and nothing is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from models.errors import UnsupportedModel
from models.model_key import Weights
from worker.llm.checkpoint import Checkpoint
from worker.llm.config import ModelConfig, parse_model_config, read_config_json
from worker.llm.convert import source_tensor
from worker.llm.ipex.model import IpexModel, optimized
from worker.llm.ipex.quantize import DTYPES
from worker.llm.ipex.recipe import IpexRecipe
from worker.llm.ipex.skeleton import (
    build_skeleton,
    linear_layers,
    other_parameters,
    put_parameter,
)

METHODS = ("gptq", "awq")
_PARTS = ("qweight", "qzeros", "scales", "g_idx", "bias")


@dataclass(frozen=True, slots=True)
class Method:
    """How a checkpoint was quantized, from the `quantization_config` of its config.json."""

    name: str
    group_size: int
    reordered: bool  # GPTQ's desc_act: groups are not of neighbours

    def as_ipex(self) -> dict[str, Any]:
        """The same in IPEX's words."""
        method = {"quant_method": self.name, "group_size": self.group_size}
        return method | ({"desc_act": self.reordered} if self.name == "gptq" else {})


def load_low_precision(
    folder: Path, recipe: IpexRecipe, context_tokens: int | None = None
) -> IpexModel:
    """The model in `folder`, computed as `recipe` says with the weights that it has.

    Raises UnsupportedModel for what is not quantized, or in another way; UnsafeModel, NotFoundError
    as `read_model_config` and `Checkpoint`.
    """
    raw = read_config_json(folder)
    method = read_method(raw.get("quantization_config"))
    config = parse_model_config({key: raw[key] for key in raw if key != "quantization_config"})
    recipe = replace(recipe, weights=Weights.INT4, group_size=method.group_size)
    context = min(config.max_position_embeddings, context_tokens or config.max_position_embeddings)
    checkpoint = Checkpoint(folder)
    model = build_skeleton(config, context)
    _put_floats(model, config, recipe, checkpoint)
    quantized = dict(_quantized_parts(model, checkpoint))
    model = optimized(model, recipe, (quantized, method.as_ipex()))
    return IpexModel(model, config, recipe, context)


def read_method(raw: object) -> Method:
    """What a `quantization_config` says; raises UnsupportedModel for what IPEX cannot load."""
    said: Mapping[str, Any] = raw if isinstance(raw, dict) else {}
    name, bits, group_size = (said.get(key) for key in ("quant_method", "bits", "group_size"))
    if name not in METHODS or bits != 4 or said.get("version", "gemm") != "gemm":
        raise UnsupportedModel(
            f"the checkpoint is not one that GPTQ or AWQ quantized to 4 bits (it says {raw}): "
            "give such a one, or an original model in bf16, fp16 or fp32"
        )
    if not isinstance(group_size, int):
        raise UnsupportedModel(f"group_size in quantization_config is {group_size!r}, no number")
    return Method(name, group_size, bool(said.get("desc_act", False)))


def _put_floats(
    model: Any, config: ModelConfig, recipe: IpexRecipe, checkpoint: Checkpoint
) -> None:
    """Embeddings, norms, and linear layers that were left as they are: the output layer."""
    names = other_parameters(model)
    names += [f"{n}.weight" for n in linear_layers(model) if f"{n}.qweight" not in checkpoint]
    for name in names:
        tied = config.tie_word_embeddings and name == "lm_head.weight"
        stored = "model.embed_tokens.weight" if tied else name
        shape = tuple(model.get_parameter(name).shape)
        tensor = source_tensor(checkpoint, stored, shape)
        put_parameter(model, name, tensor.to(DTYPES[recipe.activations]))


def _quantized_parts(model: Any, checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    for name in linear_layers(model):
        for part in _PARTS:
            if f"{name}.{part}" in checkpoint:
                yield f"{name}.{part}", checkpoint.tensor(f"{name}.{part}").clone()
