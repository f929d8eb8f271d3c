"""From the integers of a quantized checkpoint to the tensors that an artifact stores of them.

The integers stay as they are. int4 scales become bfloat16, which is what the kernels take.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from models.errors import UnsupportedModel
from models.model_key import Weights
from worker.llm.quantize import INT4_ZERO, pack_nibbles, quantize_linear
from worker.llm.quantized_checkpoint import Integers, QuantizedCheckpoint
from worker.llm.recipe import INT4_GROUPS


def kept_linear(
    source: QuantizedCheckpoint, shapes: Mapping[str, tuple[int, int]], weights: Weights
) -> dict[str, Tensor] | None:
    """What `quantize_linear` gives for layers one below the other, with their own integers.

    None where the format keeps none, or where none of the layers is quantized. Those that are not,
    beside others that are, go by our recipe. Raises UnsupportedModel for another shape, and for
    int4 weights whose groups are no neighbours.
    """
    if not source.format.is_kept(weights):
        return None
    found = {name: source.integers(name) for name in shapes}
    if all(integers is None for integers in found.values()):
        return None
    parts = []
    for name, integers in found.items():
        if integers is None:
            parts.append(quantize_linear(source.tensor(f"{name}.weight"), weights))
            continue
        if tuple(integers.values.shape) != shapes[name]:
            raise UnsupportedModel(
                f"{name} is {tuple(integers.values.shape)}, not {shapes[name]}: "
                "config.json and weights do not belong together, download the model again"
            )
        if integers.groups is not None:
            raise UnsupportedModel(
                f"{name} was quantized with act-order (desc_act), whose integers int4 cannot keep: "
                "use --weights int8 or bf16"
            )
        parts.append(_int4(integers) if weights is Weights.INT4 else _int8(integers))
    return _joined(parts)


def _int8(integers: Integers) -> dict[str, Tensor]:
    signed = (integers.values.to(torch.int16) - integers.zeros).to(torch.int8)
    return {"weight": signed, "scale": integers.scales.float().squeeze(1)}


def _int4(integers: Integers) -> dict[str, Tensor]:
    values = F.pad(
        integers.values, (0, -integers.values.size(1) % INT4_GROUPS[-1]), value=INT4_ZERO
    )
    width = values.size(1) // integers.scales.size(1)
    group = next(size for size in INT4_GROUPS if width % size == 0)
    scale = integers.scales.to(torch.bfloat16).repeat_interleave(width // group, dim=1)
    return {"weight": pack_nibbles(values), "scale": scale}


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One below the other, in the smallest group of any."""
    scales = [part["scale"] for part in parts]
    if scales[0].dim() == 2:
        groups = max(scale.size(1) for scale in scales)
        scales = [scale.repeat_interleave(groups // scale.size(1), dim=1) for scale in scales]
    return {"weight": torch.cat([part["weight"] for part in parts]), "scale": torch.cat(scales)}
