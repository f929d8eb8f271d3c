"""From a checkpoint's tensors to the tensors of an artifact, one after the other.

Query, key and value become one matrix, gate and up another, so that each input is read (and
quantized) once. Peak memory is one such matrix, not the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final, Protocol

import torch
from torch import Tensor

from models.errors import UnsupportedModel
from models.model_key import Weights
from worker.llm.calibrated_rounding import round_calibrated
from worker.llm.config import ModelConfig
from worker.llm.embedding import Embedding
from worker.llm.kept_integers import kept_linear
from worker.llm.layer_weights import EMBEDDING, LayerWeights
from worker.llm.quantize import quantize_linear
from worker.llm.quantized_checkpoint import QuantizedCheckpoint

QUANTIZED = (Weights.INT8, Weights.INT4)
_UNSEEN: Final[Mapping[str, Tensor]] = MappingProxyType({})


class TensorSource(Protocol):
    """Where the tensors of a checkpoint come from."""

    def __contains__(self, name: str) -> bool: ...

    def tensor(self, name: str) -> Tensor: ...


class InputMoments(Protocol):
    """What the inputs of matrices were in sample texts; see `worker.llm.calibration`."""

    def moments(
        self, index: int, full: Mapping[str, Tensor], names: Collection[str]
    ) -> Mapping[str, Tensor]:
        """Of these matrices of a layer, whose tensors in fp32 are `full`: (K, K) by name."""
        ...

    def pass_layer(
        self, index: int, full: Mapping[str, Tensor], stored: Mapping[str, Tensor]
    ) -> None:
        """Go on behind that layer, which was stored so; called once for each, in order."""
        ...

    def head_moment(self, norm: Tensor) -> Tensor:
        """Of the output layer, behind the last norm (hidden,)."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """One matrix of the checkpoint inside a concatenated one."""

    name: str
    outputs: int


@dataclass(frozen=True, slots=True)
class Concatenated:
    """Matrices of the checkpoint with the same input, one below the other."""

    parts: tuple[Part, ...]
    inputs: int
    biased: bool

    @property
    def outputs(self) -> int:
        """Of all parts together."""
        return sum(part.outputs for part in self.parts)


def compute_dtype(weights: Weights) -> torch.dtype:
    """The type of activations, norms and embeddings for linears in `weights`."""
    return torch.float32 if weights is Weights.FP32 else torch.bfloat16


def convert(
    config: ModelConfig,
    weights: Weights | LayerWeights,
    source: TensorSource,
    calibrate: Callable[[Embedding], InputMoments] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of the artifact by name.

    With `calibrate`, which gets the embedding, int4 weights are rounded by what their inputs are.
    Raises UnsupportedModel when a tensor is missing or has another shape than config.json says.
    """
    layers = _by_layer(weights)
    hidden = config.hidden_size
    embedding = source_tensor(source, "model.embed_tokens.weight", (config.vocab_size, hidden))
    rows = _rounded(EMBEDDING, embedding, layers)
    yield from _named(EMBEDDING, rows, None, layers)
    inputs = None
    if calibrate is not None:
        is_exact = layers.of(EMBEDDING) not in QUANTIZED
        parts = {"weight": embedding} if is_exact else rows
        inputs = calibrate(Embedding(config, parts, torch.float32))
    for index in range(config.num_layers):
        if inputs is None:
            yield from _convert_layer(config, layers, source, index)
        else:
            yield from _calibrated_layer(config, layers, source, index, inputs).items()
    norm = _norm(config, source, "model.norm", hidden)
    yield "norm.weight", norm.to(compute_dtype(layers.usual))
    moments = _UNSEEN
    if inputs is not None and layers.of("lm_head") is Weights.INT4:
        moments = {"lm_head": inputs.head_moment(norm)}
    if not config.tie_word_embeddings:
        head = source_tensor(source, "lm_head.weight", (config.vocab_size, hidden))
        yield from _stored("lm_head", head, None, layers, moments)
    elif _has_own_head(config, layers):  # beside the embedding
        yield from _stored("lm_head", embedding, None, layers, moments)


def tensor_count(
    config: ModelConfig, weights: Weights | LayerWeights, *, keeps_zeros: bool = False
) -> int:
    """How many tensors `convert` yields, at most where a checkpoint's zero points are kept."""
    layers = _by_layer(weights)
    head = _has_own_head(config, layers)
    names = [name for name in layer_names(config) if head or name != "lm_head"]
    scales = sum(layers.of(name) in QUANTIZED for name in names)
    zeros = sum(
        layers.of(name) is Weights.INT4
        for name in names
        if layers.int4_zero_points or (keeps_zeros and name.startswith("layers."))
    )
    biases = config.qkv_bias + config.output_bias + 2 * config.mlp_bias
    norms = len(block_norms(config)) + 2 * (config.head_norm is not None)
    return len(names) + scales + zeros + config.num_layers * (norms + biases) + 1  # the last norm


def _has_own_head(config: ModelConfig, layers: LayerWeights) -> bool:
    """Whether the output layer is stored; a tied one that has the embedding's tensors is not."""
    if not config.tie_word_embeddings:
        return True
    head = layers.of("lm_head")
    is_calibrated = head is Weights.INT4 and layers.calibration is not None
    return is_calibrated or head is not layers.of(EMBEDDING)


def _by_layer(weights: Weights | LayerWeights) -> LayerWeights:
    return weights if isinstance(weights, LayerWeights) else LayerWeights(weights)


def _calibrated_layer(
    config: ModelConfig,
    layers: LayerWeights,
    source: TensorSource,
    index: int,
    inputs: InputMoments,
) -> dict[str, Tensor]:
    full = dict(_convert_layer(config, LayerWeights(Weights.FP32), source, index))
    prefix = f"layers.{index}"
    names = [
        each for each in linears(config, prefix) if layers.of(f"{prefix}.{each}") is Weights.INT4
    ]
    moments = inputs.moments(index, full, names)
    stored = dict(_convert_layer(config, layers, source, index, moments))
    inputs.pass_layer(index, full, stored)
    return stored


def _convert_layer(
    config: ModelConfig,
    layers: LayerWeights,
    source: TensorSource,
    index: int,
    moments: Mapping[str, Tensor] = _UNSEEN,
) -> Iterator[tuple[str, Tensor]]:
    old, new = f"model.layers.{index}", f"layers.{index}"
    dtype = compute_dtype(layers.usual)
    for stored, norm in block_norms(config).items():
        tensor = _norm(config, source, f"{old}.{norm}", config.hidden_size)
        yield f"{new}.{stored}.weight", tensor.to(dtype)
    for stored, width in head_norm_widths(config).items():
        norm, scale = ("q_norm", config.query_scale) if stored == "query_norm" else ("k_norm", 1.0)
        tensor = _norm(config, source, f"{old}.self_attn.{norm}", width)
        yield f"{new}.{stored}.weight", (tensor * scale).to(dtype)
    for name, linear in linears(config, old).items():
        yield from _linear(config, layers, source, linear, f"{new}.{name}", moments)


def _linear(
    config: ModelConfig,
    layers: LayerWeights,
    source: TensorSource,
    linear: Concatenated,
    name: str,
    moments: Mapping[str, Tensor],
) -> Iterator[tuple[str, Tensor]]:
    parts, bias = linear.parts, None
    if linear.biased:
        bias = _joined([source_tensor(source, f"{p.name}.bias", (p.outputs,)) for p in parts])
    factors = _query_factors(config, linear.outputs) if name.endswith(".qkv") else None
    if factors is not None and bias is not None:
        bias = bias.float() * factors
    kept = _kept(layers.of(name), source, linear)
    if kept is not None:
        if factors is not None:
            kept["scale"] = _times_rows(kept["scale"], factors).to(kept["scale"].dtype)
        yield from _named(name, kept, bias, layers)
        return
    weight = _joined(
        [source_tensor(source, f"{p.name}.weight", (p.outputs, linear.inputs)) for p in parts]
    )
    weight = weight if factors is None else _times_rows(weight, factors)
    yield from _stored(name, weight, bias, layers, moments)


def _kept(weights: Weights, source: TensorSource, linear: Concatenated) -> dict[str, Tensor] | None:
    """The tensors of a layer whose checkpoint has integers already, where they can be kept."""
    if not isinstance(source, QuantizedCheckpoint):
        return None
    shapes = {part.name: (part.outputs, linear.inputs) for part in linear.parts}
    return kept_linear(source, shapes, weights, partial(source_tensor, source))


def block_norms(config: ModelConfig) -> dict[str, str]:
    """The norms around a layer's two blocks: our names, and those of the checkpoint."""
    if config.norms == "before":
        return {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    after = {
        "attention_post_norm": "post_attention_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    }
    if config.norms == "after":
        return after
    return after | {"attention_norm": "input_layernorm", "mlp_norm": "pre_feedforward_layernorm"}


def head_norm_widths(config: ModelConfig) -> dict[str, int]:
    """The norms of queries and keys, in this order; empty for a family without them."""
    if config.head_norm is None:
        return {}
    whole = config.head_norm == "width"
    return {
        "query_norm": config.head_dim * (config.num_heads if whole else 1),
        "key_norm": config.head_dim * (config.num_kv_heads if whole else 1),
    }


def linears(config: ModelConfig, layer: str) -> dict[str, Concatenated]:
    """The four matrices of a layer by our names."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, pairs = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
    qkv: tuple[Part, ...] = (
        Part(f"{attention}.q_proj", queries),
        Part(f"{attention}.k_proj", pairs),
        Part(f"{attention}.v_proj", pairs),
    )
    gate_up: tuple[Part, ...] = (Part(f"{mlp}.gate_proj", inner), Part(f"{mlp}.up_proj", inner))
    if config.is_fused:
        qkv = (Part(f"{attention}.qkv_proj", queries + 2 * pairs),)
        gate_up = (Part(f"{mlp}.gate_up_proj", 2 * inner),)
    output, down = Part(f"{attention}.o_proj", hidden), Part(f"{mlp}.down_proj", hidden)
    return {
        "qkv": Concatenated(qkv, hidden, config.qkv_bias),
        "output": Concatenated((output,), queries, config.output_bias),
        "gate_up": Concatenated(gate_up, hidden, config.mlp_bias),
        "down": Concatenated((down,), inner, config.mlp_bias),
    }


def layer_names(config: ModelConfig) -> list[str]:
    """Our names of all that has weights of a chosen kind."""
    of_layers = [
        f"layers.{index}.{name}"
        for index in range(config.num_layers)
        for name in linears(config, "")
    ]
    return [EMBEDDING, *of_layers, "lm_head"]


def _norm(config: ModelConfig, source: TensorSource, name: str, width: int) -> Tensor:
    """The factors of an RMS norm in float32; Gemma's checkpoints hold them less one."""
    return source_tensor(source, f"{name}.weight", (width,)).float() + config.adds_one_to_norms


def _query_factors(config: ModelConfig, outputs: int) -> Tensor | None:
    """Scores that are scaled in another way become queries that are; a norm would undo it here."""
    if config.query_scale == 1.0 or config.head_norm is not None:
        return None
    factors = torch.ones(outputs)
    factors[: config.num_heads * config.head_dim] = config.query_scale
    return factors


def _times_rows(matrix: Tensor, factors: Tensor) -> Tensor:
    """A matrix (N, …) with a factor (N,) for each row, in float32."""
    return matrix.float() * factors.view(-1, *[1] * (matrix.dim() - 1))


def _stored(
    name: str,
    weight: Tensor,
    bias: Tensor | None,
    layers: LayerWeights,
    moments: Mapping[str, Tensor],
) -> Iterator[tuple[str, Tensor]]:
    yield from _named(name, _rounded(name, weight, layers, moments.get(name)), bias, layers)


def _rounded(
    name: str, weight: Tensor, layers: LayerWeights, moment: Tensor | None = None
) -> dict[str, Tensor]:
    group, zeros = layers.int4_group, layers.int4_zero_points
    if moment is not None:
        return round_calibrated(weight, moment, group, int4_zero_points=zeros)
    return quantize_linear(weight, layers.of(name), group, int4_zero_points=zeros)


def _named(
    name: str, tensors: Mapping[str, Tensor], bias: Tensor | None, layers: LayerWeights
) -> Iterator[tuple[str, Tensor]]:
    for suffix, tensor in tensors.items():
        yield f"{name}.{suffix}", tensor
    if bias is not None:
        yield f"{name}.bias", bias.to(compute_dtype(layers.usual))


def source_tensor(source: TensorSource, name: str, shape: tuple[int, ...]) -> Tensor:
    """A floating-point tensor of the shape that config.json asks for; raises UnsupportedModel."""
    tensor = source.tensor(name)
    if tuple(tensor.shape) != shape or not tensor.is_floating_point():
        raise UnsupportedModel(
            f"{name} is {tuple(tensor.shape)} {tensor.dtype}, not {shape} of floating point: "
            "config.json and weights do not belong together, download the model again"
        )
    if not all(math.isfinite(edge.item()) for edge in tensor.aminmax()):
        raise UnsupportedModel(f"{name} holds infinite values or NaN: download the model again")
    return tensor


def _joined(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
