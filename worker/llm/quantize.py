"""Offline quantization of one linear layer: from its weight to the tensors that are stored.

The classes in `linear.py` are built from these tensors. What is stored depends on no CPU: packing
for a kernel happens when an artifact is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from models.model_key import Weights
from worker.llm.layer_weights import INT4_GROUPS, largest_group, missing_inputs

# Rows are independent, so a matrix is done in pieces that stay in the cache: five times as fast.
CHUNK_ELEMENTS = 1 << 19
INT8_LIMIT = 127
INT4_LIMIT = 15
INT4_ZERO = 8  # a stored nibble 0…15 means -8…7, unless its group has a zero point
# Of every group's scales the one with the least squared error is kept. Measured on normal weights,
# these four come within 1 % of a search over sixteen.
INT4_TRIES = (1.0, 0.94, 0.88, 0.82)


def quantize_linear(
    weight: Tensor,
    weights: Weights,
    int4_group: int = INT4_GROUPS[0],
    *,
    int4_zero_points: bool = False,
) -> dict[str, Tensor]:
    """The tensors to store for a weight (N, K) in the format `weights`.

    fp32, bf16: weight (N, K). int8: weight (N, K) int8 and scale (N,) float32, symmetric per
    output. int4: weight (N, K'/2) uint8 with two nibbles each, the even column in the low one, and
    scale (N, K'/group) bfloat16; K' is K filled up with zeros to a multiple of 32, and the group is
    `int4_group`, or the next smaller one that divides K'. With `int4_zero_points` also zero
    (N, K'/group) uint8, the nibble of each group that means zero; else it is 8 in all.
    """
    if weights is Weights.INT8:
        return by_rows(weight, _int8_rows)
    if weights is Weights.INT4:
        return by_rows(weight, partial(_int4_rows, most=int4_group, zero_points=int4_zero_points))
    return {"weight": weight.to(torch.float32 if weights is Weights.FP32 else torch.bfloat16)}


def stored_layout(
    outputs: int, inputs: int, weights: Weights, group: int | None = None
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of what `quantize_linear` makes of a weight (outputs, inputs).

    `group` is that of int4 weights where a quantized checkpoint has chosen it.
    """
    if weights is Weights.INT8:
        return {
            "weight": ((outputs, inputs), torch.int8),
            "scale": ((outputs,), torch.float32),
        }
    if weights is Weights.INT4:
        padded = inputs + missing_inputs(inputs)
        return {
            "weight": ((outputs, padded // 2), torch.uint8),
            "scale": ((outputs, padded // (group or largest_group(padded))), torch.bfloat16),
        }
    dtype = torch.float32 if weights is Weights.FP32 else torch.bfloat16
    return {"weight": ((outputs, inputs), dtype)}


@dataclass(frozen=True, slots=True)
class Int4Grid:
    """What the nibbles of groups stand for: (nibble - zero) * scale."""

    scale: Tensor  # (N, K'/group, 1) bfloat16
    zero: Tensor | None  # the same in float32, 0…15; None: INT4_ZERO in all

    @property
    def zeros(self) -> Tensor:
        """(N, K'/group, 1) float32."""
        if self.zero is None:
            return torch.full(self.scale.shape, float(INT4_ZERO))
        return self.zero

    def steps(self, grouped: Tensor) -> Tensor:
        """How many scales from zero the values (N, K'/group, group) are rounded to, in float32."""
        steps = (grouped / self.scale.float()).round_()
        if self.zero is None:
            return steps.clamp_(-INT4_ZERO, INT4_LIMIT - INT4_ZERO)
        return steps.clamp_(-self.zero, INT4_LIMIT - self.zero)

    @property
    def stored(self) -> dict[str, Tensor]:
        """The tensors beside the nibbles."""
        scale = {"scale": self.scale.squeeze(-1)}
        if self.zero is None:
            return scale
        return scale | {"zero": self.zero.squeeze(-1).to(torch.uint8)}


def int4_grid(grouped: Tensor, *, zero_points: bool) -> Int4Grid:
    """Of a few scales for each group of values (N, K'/group, group) those with the least error.

    Without zero points they put the value farthest from zero at or beyond -8. Such a scale may be
    negative: -8 is the only end with eight steps, whatever that value's sign.
    """
    low, high = grouped.aminmax(dim=-1, keepdim=True)
    if zero_points:
        low, high = low.clamp(max=0), high.clamp(min=0)
        span = (high - low) / INT4_LIMIT
    else:
        span = torch.where(-low >= high, low, high) / -INT4_ZERO
    span = torch.where(span != 0, span, 1.0)
    best = torch.empty_like(span, dtype=torch.bfloat16)
    best_zero = torch.empty_like(span) if zero_points else None
    least = torch.full_like(span, torch.inf)
    for factor in INT4_TRIES:
        scale = (span * factor).to(torch.bfloat16)
        zero = _zero_points(low * factor, scale) if zero_points else None
        steps = Int4Grid(scale, zero).steps(grouped)
        squared = steps.mul_(scale.float()).sub_(grouped).square_().sum(dim=-1, keepdim=True)
        is_better = squared < least
        best = torch.where(is_better, scale, best)
        if zero is not None and best_zero is not None:
            best_zero = torch.where(is_better, zero, best_zero)
        least = torch.minimum(squared, least)
    return Int4Grid(best, best_zero)


def _zero_points(low: Tensor, scale: Tensor) -> Tensor:
    """Where zero is, counted from the least value in steps of the scale."""
    return (-low / scale.float()).round_().clamp_(0, INT4_LIMIT)


def dequantized(stored: Mapping[str, Tensor], prefix: str = "") -> Tensor:
    """The float32 matrix (N, K), or (N, K') of int4, that what `quantize_linear` made means.

    `prefix` is what the names of its tensors begin with.
    """
    weight = stored[f"{prefix}weight"]
    if weight.dtype is torch.uint8:
        return dequantize_int4(weight, stored[f"{prefix}scale"], stored.get(f"{prefix}zero"))
    if weight.dtype is torch.int8:
        return weight.float() * stored[f"{prefix}scale"].unsqueeze(1)
    return weight.float()


def dequantize_int4(weight: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """The float32 matrix (N, K') that a stored int4 weight stands for."""
    grouped = unpack_nibbles(weight).float().view(*scale.shape, -1)  # (N, K'/group, group)
    grouped = grouped - (INT4_ZERO if zero is None else zero.unsqueeze(-1))
    return (grouped * scale.float().unsqueeze(-1)).flatten(1)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """From (N, K/2) bytes to (N, K) values 0…15."""
    low, high = packed.bitwise_and(15), packed.bitwise_right_shift(4)
    return torch.stack((low, high), dim=-1).flatten(1)


def pack_nibbles(values: Tensor) -> Tensor:
    """From (N, K) values 0…15 to (N, K/2) bytes, the even column in the low nibble."""
    return values[:, 0::2] | (values[:, 1::2] << 4)


def by_rows(
    weight: Tensor,
    quantize_rows: Callable[[Tensor], dict[str, Tensor]],
    n_rows: int | None = None,
) -> dict[str, Tensor]:
    """What a function gives for rows (n, K) in float32, for a whole weight (N, K).

    It gets `n_rows` at a time, or as many as stay in the cache.
    """
    n_rows = n_rows or max(1, CHUNK_ELEMENTS // weight.size(1))
    done = [quantize_rows(chunk.to(torch.float32)) for chunk in torch.split(weight, n_rows)]
    return {part: torch.cat([rows[part] for rows in done]) for part in done[0]}


def _int8_rows(weight: Tensor) -> dict[str, Tensor]:
    scale = weight.abs().amax(dim=1) / INT8_LIMIT  # (N,)
    scale = torch.where(scale > 0, scale, 1.0)
    values = (weight / scale.unsqueeze(1)).round_().clamp_(-INT8_LIMIT, INT8_LIMIT)
    return {"weight": values.to(torch.int8), "scale": scale}


def _int4_rows(weight: Tensor, most: int, zero_points: bool) -> dict[str, Tensor]:
    grouped = in_groups(weight, most)  # (N, K'/group, group)
    grid = int4_grid(grouped, zero_points=zero_points)
    nibbles = grid.steps(grouped).add_(grid.zeros).to(torch.uint8).flatten(1)
    return {"weight": pack_nibbles(nibbles), **grid.stored}


def in_groups(weight: Tensor, most: int) -> Tensor:
    """Rows (n, K), filled up with zeros, as (n, K'/group, group); a group of `most` at most."""
    weight = F.pad(weight, (0, missing_inputs(weight.size(1))))
    return weight.reshape(weight.size(0), -1, largest_group(weight.size(1), most))
