"""From a checkpoint's tensors to the tensors of an artifact, one after the other.

Query, key and value become one matrix, gate and up another, so that each input is read (and
quantized) once. Peak memory is one such matrix, not the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.errors import UnsupportedModel
from models.model_key import Weights
from worker.llm.config import ModelConfig
from worker.llm.quantize import quantize_linear

QUANTIZED = (Weights.INT8, Weights.INT4)


class TensorSource(Protocol):
    """Where the tensors of a checkpoint come from."""

    def __contains__(self, name: str) -> bool: ...

    def tensor(self, name: str) -> Tensor: ...


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
    config: ModelConfig, weights: Weights, source: TensorSource
) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of the artifact by name.

    Raises UnsupportedModel when a tensor is missing or has another shape than config.json says.
    """
    dtype = compute_dtype(weights)
    hidden = config.hidden_size
    embedding = checked_tensor(source, "model.embed_tokens.weight", (config.vocab_size, hidden))
    yield "embedding.weight", embedding.to(dtype)
    for index in range(config.num_layers):
        yield from _convert_layer(config, weights, source, index)
    yield "norm.weight", checked_tensor(source, "model.norm.weight", (hidden,)).to(dtype)
    if not config.tie_word_embeddings:
        head = checked_tensor(source, "lm_head.weight", (config.vocab_size, hidden))
        yield from _stored("lm_head", head, None, weights)
    elif weights in QUANTIZED:  # a tied head is quantized as well, beside the embedding
        yield from _stored("lm_head", embedding, None, weights)


def tensor_count(config: ModelConfig, weights: Weights) -> int:
    """How many tensors `convert` yields."""
    per_linear = 2 if weights in QUANTIZED else 1
    biases = 2 * (config.attention_bias + config.mlp_bias)
    head = weights in QUANTIZED or not config.tie_word_embeddings
    return 2 + config.num_layers * (2 + 4 * per_linear + biases) + head * per_linear


def _convert_layer(
    config: ModelConfig, weights: Weights, source: TensorSource, index: int
) -> Iterator[tuple[str, Tensor]]:
    old, new = f"model.layers.{index}", f"layers.{index}"
    dtype = compute_dtype(weights)
    for norm, stored in (
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "mlp_norm"),
    ):
        tensor = checked_tensor(source, f"{old}.{norm}.weight", (config.hidden_size,))
        yield f"{new}.{stored}.weight", tensor.to(dtype)
    for name, linear in linears(config, old).items():
        parts = linear.parts
        weight = _joined(
            [checked_tensor(source, f"{p.name}.weight", (p.outputs, linear.inputs)) for p in parts]
        )
        bias = None
        if linear.biased:
            bias = _joined([checked_tensor(source, f"{p.name}.bias", (p.outputs,)) for p in parts])
        yield from _stored(f"{new}.{name}", weight, bias, weights)


def linears(config: ModelConfig, layer: str) -> dict[str, Concatenated]:
    """The four matrices of a layer by our names."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, pairs = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
    qkv = (
        Part(f"{attention}.q_proj", queries),
        Part(f"{attention}.k_proj", pairs),
        Part(f"{attention}.v_proj", pairs),
    )
    gate_up = (Part(f"{mlp}.gate_proj", inner), Part(f"{mlp}.up_proj", inner))
    output, down = Part(f"{attention}.o_proj", hidden), Part(f"{mlp}.down_proj", hidden)
    return {
        "qkv": Concatenated(qkv, hidden, config.attention_bias),
        "output": Concatenated((output,), queries, config.attention_bias),
        "gate_up": Concatenated(gate_up, hidden, config.mlp_bias),
        "down": Concatenated((down,), inner, config.mlp_bias),
    }


def _stored(
    name: str, weight: Tensor, bias: Tensor | None, weights: Weights
) -> Iterator[tuple[str, Tensor]]:
    for suffix, tensor in quantize_linear(weight, weights).items():
        yield f"{name}.{suffix}", tensor
    if bias is not None:
        yield f"{name}.bias", bias.to(compute_dtype(weights))


def checked_tensor(source: TensorSource, name: str, shape: tuple[int, ...]) -> Tensor:
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
