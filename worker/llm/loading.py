"""From stored tensors to a model that runs; maps files into memory and quantizes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.errors import ArtifactError, UnsupportedModel
from models.model_key import Weights
from worker.llm.artifact import Artifact
from worker.llm.config import ModelConfig, read_model_config
from worker.llm.convert import (
    QUANTIZED,
    block_norms,
    compute_dtype,
    head_norm_widths,
    linears,
)
from worker.llm.decoder import Decoder, DecoderWeights
from worker.llm.decoder_layer import DecoderLayer
from worker.llm.embedding import Embedding
from worker.llm.layer_weights import EMBEDDING, INT4_GROUPS, LayerWeights, missing_inputs
from worker.llm.linear import FloatLinear, Linear, build_linear
from worker.llm.native.kernels import Kernels
from worker.llm.native.linear import CompiledLinear, is_compiled_faster
from worker.llm.native.operations import NativeOperations, fits
from worker.llm.operations import HeadNorms
from worker.llm.quantize import stored_layout
from worker.llm.tensor_file import open_tensors

SMALL_TENSOR_BYTES = 1 << 20
INT8_INPUTS = (1 << 17) - 1  # of a layer: the sum of more products of 128 * 128 exceeds 32 bits


# fp32 has no exceptions, see LayerWeights; what is none of these is refused by its layout.
_EXCEPTIONS = {
    torch.int8: Weights.INT8,
    torch.uint8: Weights.INT4,
    torch.bfloat16: Weights.BF16,
}


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of an artifact's files, each mapped into memory when it is asked for.

    One file is open at a time. So a layer that packs its weights anew has them in memory twice only
    until the next file's turn.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = {name: path for path in files for name in open_tensors(path).keys()}  # noqa: SIM118
        self._open_path: Path | None = None
        self._open_file: Any = None

    def __getitem__(self, name: str) -> Tensor:
        path = self._files[name]
        if path != self._open_path:
            self._open_path, self._open_file = path, open_tensors(path)
        tensor: Tensor = self._open_file.get_tensor(name)
        # A view keeps its whole file mapped; small tensors are copied so that they do not.
        return tensor.clone() if tensor.nbytes <= SMALL_TENSOR_BYTES else tensor

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def load_model(artifact: Artifact, kernels: Kernels | None = None) -> Decoder:
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
) -> Decoder:
    """The model of the tensors that `convert` yields, by name.

    Raises ArtifactError when one is missing or is not what config.json asks for: the compiled
    kernels would read past its end. Raises UnsupportedModel for layers too wide for exact sums.
    """
    dtype, hidden = compute_dtype(weights), config.hidden_size
    layers = tuple(
        build_layer(config, weights, stored, f"layers.{index}", kernels)
        for index in range(config.num_layers)
    )
    kind = stored_kind(stored, EMBEDDING, LayerWeights(weights).of(EMBEDDING))
    rows = linear_parts(stored, EMBEDDING, kind, (config.vocab_size, hidden))
    norm = checked_tensor(stored, "norm.weight", (hidden,), dtype)
    head = _build_head(config, weights, stored, rows, kernels)
    held = DecoderWeights(Embedding(config, rows, dtype), layers, norm, head)
    if kernels is not None and fits(config, dtype):
        return Decoder(config, held, NativeOperations(config, kernels))
    return Decoder(config, held)


def build_layer(
    config: ModelConfig,
    weights: Weights,
    stored: Mapping[str, Tensor],
    prefix: str,
    kernels: Kernels | None,
) -> DecoderLayer:
    """The layer whose tensors have names that begin with `prefix`; raises as `build_model`."""
    dtype, hidden = compute_dtype(weights), config.hidden_size
    built: dict[str, Linear] = {}
    for name, shape in linears(config, prefix).items():
        size = (shape.outputs, shape.inputs)
        kind = stored_kind(stored, f"{prefix}.{name}", weights)
        parts = linear_parts(stored, f"{prefix}.{name}", kind, size, shape.biased)
        built[name] = fastest_linear(parts, shape.inputs, kind, kernels)
    norms = {
        name: checked_tensor(stored, f"{prefix}.{name}.weight", (hidden,), dtype)
        for name in block_norms(config)
    }
    of_heads = [
        checked_tensor(stored, f"{prefix}.{name}.weight", (width,), dtype)
        for name, width in head_norm_widths(config).items()
    ]
    return DecoderLayer(
        qkv=built["qkv"],
        output=built["output"],
        gate_up=built["gate_up"],
        down=built["down"],
        attention_norm=norms.get("attention_norm"),
        attention_post_norm=norms.get("attention_post_norm"),
        mlp_norm=norms.get("mlp_norm"),
        mlp_post_norm=norms.get("mlp_post_norm"),
        head_norms=HeadNorms(*of_heads) if of_heads else None,
    )


def _build_head(
    config: ModelConfig,
    weights: Weights,
    stored: Mapping[str, Tensor],
    embedding: Mapping[str, Tensor],
    kernels: Kernels | None,
) -> Linear:
    """The output layer; where it is tied and not stored, it has the tensors of the embedding."""
    if config.tie_word_embeddings and "lm_head.weight" not in stored:
        kind, parts = stored_kind(stored, EMBEDDING, weights), embedding
        if kind not in QUANTIZED:  # packed, it would take the embedding's memory again
            return FloatLinear(embedding["weight"], None)
    else:
        kind = stored_kind(stored, "lm_head", weights)
        parts = linear_parts(stored, "lm_head", kind, (config.vocab_size, config.hidden_size))
    # its sums are integers: rounding them to bf16 would only lose
    return fastest_linear(parts, config.hidden_size, kind, kernels, torch.float32)


def stored_kind(stored: Mapping[str, Tensor], name: str, usual: Weights) -> Weights:
    """The weights of the layer of that name: `usual`, or those of an exception."""
    if f"{name}.weight" not in stored:
        return usual
    dtype = stored[f"{name}.weight"].dtype
    return _EXCEPTIONS.get(dtype, usual) if usual is not Weights.FP32 else usual


def fastest_linear(
    parts: Mapping[str, Tensor],
    inputs: int,
    weights: Weights,
    kernels: Kernels | None,
    output_dtype: torch.dtype = torch.bfloat16,
) -> Linear:
    """The layer of these tensors on the fastest kernel there is; raises UnsupportedModel."""
    if weights is Weights.INT8 and inputs > INT8_INPUTS:
        raise UnsupportedModel(
            f"a layer has {inputs} inputs, int8 weights can have {INT8_INPUTS}: use bf16 or int4"
        )
    if kernels is not None and is_compiled_faster(inputs, weights):
        return CompiledLinear(kernels, parts, weights, output_dtype)
    return build_linear(parts, weights, output_dtype=output_dtype)


def linear_parts(
    stored: Mapping[str, Tensor],
    name: str,
    weights: Weights,
    shape: tuple[int, int],
    biased: bool = False,
) -> dict[str, Tensor]:
    """The tensors of the linear layer of that name, of `shape` (outputs, inputs).

    Raises ArtifactError as `checked_tensor`.
    """
    group = _chosen_group(stored, f"{name}.scale", shape[1]) if weights is Weights.INT4 else None
    layout = stored_layout(*shape, weights, group)
    if weights is Weights.INT4 and f"{name}.zero" in stored:
        layout["zero"] = (layout["scale"][0], torch.uint8)
    if biased:
        layout["bias"] = ((shape[0],), compute_dtype(weights))
    return {
        suffix: checked_tensor(stored, f"{name}.{suffix}", *expected)
        for suffix, expected in layout.items()
    }


def _chosen_group(stored: Mapping[str, Tensor], scale: str, inputs: int) -> int | None:
    """The group of int4 weights by the shape of their scales, None for one that none can have."""
    groups = stored[scale].shape[-1:] if scale in stored else ()
    padded = inputs + missing_inputs(inputs)
    return next((size for size in INT4_GROUPS if groups == (padded / size,)), None)


def checked_tensor(
    stored: Mapping[str, Tensor], name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """A stored tensor; raises ArtifactError when it is missing or another one than expected."""
    if name not in stored:
        raise ArtifactError(f"the artifact has no tensor {name}: remove it and add the model again")
    tensor = stored[name]
    if tuple(tensor.shape) != shape or tensor.dtype is not dtype:
        raise ArtifactError(
            f"the artifact's tensor {name} is {tuple(tensor.shape)} {tensor.dtype}, not {shape} "
            f"{dtype}: remove it and add the model again"
        )
    return tensor
