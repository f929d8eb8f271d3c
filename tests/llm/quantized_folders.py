"""Random checkpoints as GPTQ, AWQ and compressed-tensors write them, packed word by word.

Written from the formats' descriptions and not from the code under test: numbers are put together
one after the other in Python, and the matrix that they stand for is kept beside them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Layer:
    """A layer as it is stored, what it means, and its unsigned integers (N, K)."""

    tensors: dict[str, Tensor]
    dense: Tensor
    values: Tensor
    scales: Tensor  # (N, groups) as stored
    zeros: Tensor  # (N, groups) unsigned


Packer = Callable[[Tensor, "Scheme"], Layer]


@dataclass(frozen=True)
class Scheme:
    """What a test asks for."""

    bits: int = 4
    group: int = 32  # -1: all of an output
    symmetric: bool = True
    zeros_less_one: bool = True
    act_order: bool = False

    def size(self, inputs: int) -> int:
        return inputs if self.group == -1 else self.group


def words(values: Tensor, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """Rows (R, C) of integers as int32 words (R, C * bits / 32)."""
    places = order or tuple(range(32 // bits))
    rows = []
    for row in values.tolist():
        packed = []
        for start in range(0, len(row), len(places)):
            word = sum(row[start + place] << (bits * at) for at, place in enumerate(places))
            packed.append(word - 2**32 if word >= 2**31 else word)
        rows.append(packed)
    return torch.tensor(rows, dtype=torch.int32)


def rounded(weight: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Integers (N, K), scales and zero points (N, groups), and the group (K,) of each input."""
    outputs, inputs = weight.shape
    size, top, middle = scheme.size(inputs), 2**scheme.bits - 1, 2 ** (scheme.bits - 1)
    of_input = torch.arange(inputs) // size
    if scheme.act_order:
        of_input = of_input[torch.randperm(inputs, generator=torch.Generator().manual_seed(3))]
    scales = torch.empty(outputs, inputs // size, dtype=torch.float16)
    zeros = torch.full((outputs, inputs // size), middle)
    for group in range(inputs // size):
        part = weight[:, of_input == group]  # (N, group)
        low, high = part.amin(dim=1).clamp(max=0), part.amax(dim=1).clamp(min=0)
        if scheme.symmetric:
            scales[:, group] = torch.maximum(-low, high) / (middle - 1)
        else:
            scales[:, group] = (high - low) / top
            zeros[:, group] = (-low / scales[:, group].float()).round().clamp(0, top).long()
    spread, moved = scales.float()[:, of_input], zeros[:, of_input]
    values = (weight / spread + moved).round().clamp(0, top).long()
    return values, scales, zeros, of_input


def dense(values: Tensor, scales: Tensor, zeros: Tensor, of_input: Tensor) -> Tensor:
    return (values - zeros[:, of_input]).float() * scales.float()[:, of_input]


def gptq(weight: Tensor, scheme: Scheme) -> Layer:
    values, scales, zeros, of_input = rounded(weight, scheme)
    stored = (zeros - int(scheme.zeros_less_one)) % 2**scheme.bits
    tensors = {
        "qweight": words(values, scheme.bits).t().contiguous(),
        "qzeros": words(stored.t(), scheme.bits),
        "scales": scales.t().contiguous(),
        "g_idx": of_input.to(torch.int32),
    }
    return Layer(tensors, dense(values, scales, zeros, of_input), values, scales, zeros)


def awq(weight: Tensor, scheme: Scheme) -> Layer:
    values, scales, zeros, of_input = rounded(weight, scheme)
    tensors = {
        "qweight": words(values.t(), 4, AWQ_ORDER),
        "qzeros": words(zeros.t(), 4, AWQ_ORDER),
        "scales": scales.t().contiguous(),
    }
    return Layer(tensors, dense(values, scales, zeros, of_input), values, scales, zeros)


def pack_quantized(weight: Tensor, scheme: Scheme) -> Layer:
    values, scales, zeros, of_input = rounded(weight, scheme)
    tensors = {
        "weight_packed": words(values, scheme.bits),
        "weight_scale": scales,
        "weight_shape": torch.tensor(weight.shape),
    }
    if not scheme.symmetric:
        tensors["weight_zero_point"] = words(zeros.t(), scheme.bits).t().contiguous()
    return Layer(tensors, dense(values, scales, zeros, of_input), values, scales, zeros)


def int_quantized(weight: Tensor, scheme: Scheme) -> Layer:
    values, scales, zeros, of_input = rounded(weight, scheme)
    tensors = {"weight": (values - 128).to(torch.int8), "weight_scale": scales}
    return Layer(tensors, dense(values, scales, zeros, of_input), values, scales, zeros)


def save_quantized(
    model: PreTrainedModel,
    folder: Path,
    said: dict[str, Any],
    pack: Callable[[Tensor], Layer],
    ignored: tuple[str, ...] = ("lm_head",),
) -> dict[str, Layer]:
    """Write the model with quantized layers, and put what they mean into it; the layers by name."""
    layers: dict[str, Layer] = {}
    tensors: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    for name, parameter in model.state_dict().items():
        module = name.rpartition(".")[0]
        is_linear = isinstance(modules[module], torch.nn.Linear) and name.endswith(".weight")
        if not is_linear or module.endswith(ignored):
            tensors[name] = parameter.clone()
            continue
        layers[module] = pack(parameter)
        parameter.copy_(layers[module].dense)
        tensors |= {f"{module}.{part}": t for part, t in layers[module].tensors.items()}
    model.config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": said}))
    return layers


def compressed_config(scheme: Scheme, stored: str = "pack-quantized") -> dict[str, Any]:
    """The quantization_config of llm-compressor."""
    weights = {
        "num_bits": scheme.bits,
        "type": "int",
        "symmetric": scheme.symmetric,
        "strategy": "channel" if scheme.group == -1 else "group",
        "group_size": None if scheme.group == -1 else scheme.group,
        "actorder": None,
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": stored,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }


def gptq_config(scheme: Scheme) -> dict[str, Any]:
    """The quantization_config of AutoGPTQ and GPTQModel."""
    return {
        "quant_method": "gptq",
        "bits": scheme.bits,
        "group_size": scheme.group,
        "sym": scheme.symmetric,
        "desc_act": scheme.act_order,
        "checkpoint_format": "gptq" if scheme.zeros_less_one else "gptq_v2",
    }


def awq_config(scheme: Scheme) -> dict[str, Any]:
    """The quantization_config of AutoAWQ."""
    return {
        "quant_method": "awq",
        "bits": scheme.bits,
        "group_size": scheme.group,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": None,
    }
