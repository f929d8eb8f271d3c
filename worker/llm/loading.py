"""From stored tensors to a model that runs; maps files into memory and quantizes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.errors import ArtifactError
from models.model_key import Weights
from worker.llm.artifact import Artifact
from worker.llm.config import ModelConfig, read_model_config
from worker.llm.convert import QUANTIZED
from worker.llm.linear import Linear, build_linear
from worker.llm.llama import DecoderLayer, Llama, LlamaWeights
from worker.llm.native.kernels import Kernels
from worker.llm.native.operations import NativeOperations, fits

SMALL_TENSOR_BYTES = 1 << 20


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of an artifact's files, each mapped into memory when it is asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._handles = [_open(path) for path in files]
        self._owners = {name: handle for handle in self._handles for name in handle.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._owners[name].get_tensor(name)
        # A view keeps its whole file mapped; small tensors are copied so that they do not.
        return tensor.clone() if tensor.nbytes <= SMALL_TENSOR_BYTES else tensor

    def __contains__(self, name: object) -> bool:
        return name in self._owners

    def __iter__(self) -> Iterator[str]:
        return iter(self._owners)

    def __len__(self) -> int:
        return len(self._owners)


def load_model(artifact: Artifact, kernels: Kernels | None = None) -> Llama:
    """The model of an artifact, ready to run. Raises ArtifactError when it is damaged.

    `kernels` are used where they are made for a model of this shape.
    """
    config = read_model_config(artifact.folder)
    return build_model(config, artifact.weights, StoredTensors(artifact.tensor_files), kernels)


def build_model(
    config: ModelConfig,
    weights: Weights,
    stored: Mapping[str, Tensor],
    kernels: Kernels | None = None,
) -> Llama:
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
    if kernels is not None and fits(config, embedding.dtype):
        return Llama(config, held, NativeOperations(config, kernels))
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
    quantized = weights in QUANTIZED
    if default is not None and not quantized and f"{name}.weight" not in stored:
        parts = {"weight": default}
    else:
        needed = ("weight", "scale") if quantized else ("weight",)
        parts = {suffix: stored[f"{name}.{suffix}"] for suffix in needed}
    if f"{name}.bias" in stored:
        parts["bias"] = stored[f"{name}.bias"]
    # int8 logits come out of integers: rounding them to bf16 would only lose
    output_dtype = torch.float32 if name == "lm_head" else torch.bfloat16
    return build_linear(parts, weights, output_dtype=output_dtype)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as exc:
        raise ArtifactError(
            f"{path} is missing or damaged: remove the artifact and add the model again"
        ) from exc
