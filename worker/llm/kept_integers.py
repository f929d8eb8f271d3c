"""From the integers of a quantized checkpoint to the tensors that an artifact stores of them.

The integers stay as they are. int4 scales become bfloat16, which is what the kernels take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from models.errors import UnsupportedModel
from models.model_key import Weights
from worker.llm.layer_weights import largest_group, missing_inputs
from worker.llm.quantize import INT4_ZERO, pack_nibbles, quantize_linear
from worker.llm.quantized_checkpoint import Integers, QuantizedCheckpoint


def kept_linear(
    source: QuantizedCheckpoint,
    shapes: Mapping[str, tuple[int, int]],
    weights: Weights,
    plain: Callable[[str, tuple[int, int]], Tensor],
) -> dict[str, Tensor] | None:
    """What `quantize_linear` gives for layers one below the other, with their own integers.

    Asymmetric ones have a third tensor, zero (N, K'/group) uint8: a stored nibble means itself less
    that. None where the format keeps none, or where none of the layers is quantized. Those that are
    not, beside others that are, go by our recipe; `plain` reads them. Raises UnsupportedModel for
    another shape, and for int4 weights whose groups are no neighbours.
    """
    if not source.format.is_kept(weights):
        return None
    found = {name: source.integers(name) for name in shapes}
    if all(integers is None for integers in found.values()):
        return None
    parts = []
    for name, integers in found.items():
        if integers is None:
            parts.append(_by_recipe(plain(f"{name}.weight", shapes[name]), weights))
        else:
            _check(name, integers, shapes[name])
            parts.append(_int4(integers) if weights is Weights.INT4 else _int8(integers))
    joined = _joined(parts)
    if not source.format.keeps_zeros(weights):
        joined.pop("zero", None)  # they are all the middle
    return joined


def _check(name: str, integers: Integers, shape: tuple[int, int]) -> None:
    if tuple(integers.values.shape) != shape:
        raise UnsupportedModel(
            f"{name} is {tuple(integers.values.shape)}, not {shape}: "
            "config.json and weights do not belong together, download the model again"
        )
    if integers.groups is not None:
        raise UnsupportedModel(
            f"{name} was quantized with act-order (desc_act), whose integers int4 cannot keep: "
            "use --weights int8 or bf16"
        )


def _by_recipe(weight: Tensor, weights: Weights) -> dict[str, Tensor]:
    stored = quantize_linear(weight, weights)
    if weights is Weights.INT4:
        stored["zero"] = torch.full(stored["scale"].shape, INT4_ZERO, dtype=torch.uint8)
    return stored


def _int8(integers: Integers) -> dict[str, Tensor]:
    signed = (integers.values.to(torch.int16) - integers.zeros).to(torch.int8)
    return {"weight": signed, "scale": integers.scales.float().squeeze(1)}


def _int4(integers: Integers) -> dict[str, Tensor]:
    missing = missing_inputs(integers.values.size(1))
    values = F.pad(integers.values, (0, missing), value=INT4_ZERO)
    width = values.size(1) // integers.scales.size(1)
    group = largest_group(width)
    scale = integers.scales.to(torch.bfloat16)
    stored = {"weight": pack_nibbles(values), "scale": scale, "zero": integers.zeros}
    return _repeated(stored, width // group)


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One below the other, in the smallest group of any."""
    if parts[0]["scale"].dim() == 2:
        groups = max(part["scale"].size(1) for part in parts)
        parts = [_repeated(part, groups // part["scale"].size(1)) for part in parts]
    return {suffix: torch.cat([part[suffix] for part in parts]) for suffix in parts[0]}


def _repeated(stored: dict[str, Tensor], times: int) -> dict[str, Tensor]:
    """The same matrix in groups that many times smaller."""
    of_groups = {
        suffix: stored[suffix].repeat_interleave(times, dim=1)
        for suffix in ("scale", "zero")
        if suffix in stored
    }
    return stored | of_groups
