"""A checkpoint that is quantized already: its integers as they are stored, or what they stand for.

GPTQ packs along the inputs and AWQ along the outputs of a transposed matrix; compressed-tensors
packs along the inputs. Here all are integers (N, K) with scales and zero points (N, groups).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import UnsupportedModel
from worker.llm.checkpoint import Checkpoint
from worker.llm.quantized_config import QuantizedFormat

WORD_BITS = 32
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # where in a word the outputs 0…7 are
MARKS = ("qweight", "weight_packed", "weight_scale")  # of a layer that is quantized


@dataclass(frozen=True, slots=True)
class Integers:
    """A matrix (N, K) as scale * (value - zero)."""

    values: Tensor  # (N, K) uint8
    scales: Tensor  # (N, groups) floating point
    zeros: Tensor  # (N, groups) uint8
    groups: Tensor | None = None  # (K,) the group of each input, where they are no neighbours

    def dequantized(self) -> Tensor:
        """The float32 matrix (N, K)."""
        scales, zeros = self.scales.float(), self.zeros.float()
        if self.groups is not None:
            moved = self.values.float() - zeros[:, self.groups]
            return moved.mul_(scales[:, self.groups])
        grouped = self.values.float().view(*scales.shape, -1)  # (N, groups, group)
        return (grouped - zeros.unsqueeze(-1)).mul_(scales.unsqueeze(-1)).flatten(1)


class QuantizedCheckpoint:
    """The tensors of a checkpoint as if it had never been quantized; a TensorSource."""

    def __init__(self, checkpoint: Checkpoint, stored: QuantizedFormat) -> None:
        self._checkpoint = checkpoint
        self.format = stored

    def __contains__(self, name: str) -> bool:
        return name in self._checkpoint or self._is_quantized(name.removesuffix(".weight"))

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name in floating point."""
        integers = self.integers(name.removesuffix(".weight")) if name.endswith(".weight") else None
        return self._checkpoint.tensor(name) if integers is None else integers.dequantized()

    def integers(self, name: str) -> Integers | None:
        """The integers of a linear layer; None for one that was left in floating point.

        Raises UnsupportedModel when its tensors do not belong together.
        """
        if not self._is_quantized(name):
            return None
        readers = {"gptq": self._gptq, "awq": self._awq, "compressed-tensors": self._compressed}
        try:
            integers = readers[self.format.method](name)
        except (RuntimeError, ValueError, TypeError, IndexError) as exc:
            raise _damaged(name) from exc
        self._check(name, integers)
        return integers

    def _is_quantized(self, name: str) -> bool:
        return any(f"{name}.{mark}" in self._checkpoint for mark in MARKS)

    def _gptq(self, name: str) -> Integers:
        bits = self.format.bits
        packed = self._part(name, "qweight").t()  # (N, K * bits / 32)
        scales = self._part(name, "scales").t()  # (N, groups)
        zeros = _unpacked(self._part(name, "qzeros"), bits).t()  # (N, groups)
        if self.format.zeros_less_one:
            zeros = (zeros + 1).bitwise_and(2**bits - 1)
        values = _unpacked(packed, bits)
        return Integers(values, scales, zeros, self._order(name, values.size(1), scales.size(1)))

    def _order(self, name: str, inputs: int, groups: int) -> Tensor | None:
        """The group of each input where act-order has mixed them."""
        if f"{name}.g_idx" not in self._checkpoint:
            return None
        order = self._part(name, "g_idx").long()  # (K,)
        if order.shape != (inputs,) or int(order.min()) < 0 or int(order.max()) >= groups:
            raise _damaged(name)
        usual = torch.arange(inputs) // (self.format.group or inputs)
        return None if torch.equal(order, usual) else order

    def _awq(self, name: str) -> Integers:
        values = _in_awq_order(self._part(name, "qweight")).t()  # (N, K)
        zeros = _in_awq_order(self._part(name, "qzeros")).t()  # (N, groups)
        return Integers(values.contiguous(), self._part(name, "scales").t(), zeros)

    def _compressed(self, name: str) -> Integers:
        """Signed integers, moved by the middle of their range to unsigned ones when packed."""
        scales = self._part(name, "weight_scale")  # (N, groups)
        if f"{name}.weight_g_idx" in self._checkpoint:
            raise UnsupportedModel(f"{name} is stored with actorder: use a model without")
        if f"{name}.weight_packed" in self._checkpoint:
            outputs, inputs = self._part(name, "weight_shape").tolist()
            values = _unpacked(self._part(name, "weight_packed"), self.format.bits)[:, :inputs]
            if values.shape != (outputs, inputs):
                raise _damaged(name)
        else:
            values = self._unsigned(self._part(name, "weight"))
        return Integers(values.contiguous(), scales, self._compressed_zeros(name, scales))

    def _compressed_zeros(self, name: str, scales: Tensor) -> Tensor:
        if self.format.symmetric or f"{name}.weight_zero_point" not in self._checkpoint:
            return torch.full(scales.shape, self.format.middle, dtype=torch.uint8)
        zeros = self._part(name, "weight_zero_point")
        if zeros.dtype is not torch.int32:
            return self._unsigned(zeros)
        return _unpacked(zeros.t(), self.format.bits)[:, : scales.size(0)].t()  # along the outputs

    def _unsigned(self, signed: Tensor) -> Tensor:
        if signed.dtype is not torch.int8:
            raise ValueError(signed.dtype)
        return (signed.to(torch.int16) + self.format.middle).to(torch.uint8)

    def _part(self, name: str, part: str) -> Tensor:
        return self._checkpoint.tensor(f"{name}.{part}")

    def _check(self, name: str, found: Integers) -> None:
        outputs, inputs = found.values.shape
        group = self.format.group or inputs
        shape = (outputs, -(-inputs // group))
        if found.scales.shape != shape or found.zeros.shape != shape:
            raise _damaged(name)
        if found.groups is None and inputs % group:
            raise _damaged(name)
        if not found.scales.is_floating_point() or not bool(found.scales.isfinite().all()):
            raise _damaged(name)
        if self.format.symmetric and not bool((found.zeros == self.format.middle).all()):
            raise UnsupportedModel(
                f"{name} has zero points beside the middle, though config.json says symmetric: "
                "download the model again"
            )


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """From words (R, C) to integers (R, C * 32 / bits), the lowest bits first."""
    if packed.dtype is not torch.int32:
        raise ValueError(packed.dtype)
    per_word = WORD_BITS // bits
    values = torch.empty((*packed.shape, per_word), dtype=torch.uint8)
    for place in range(per_word):
        values[..., place] = (packed >> (bits * place)).bitwise_and_(2**bits - 1)
    return values.flatten(1)


def _in_awq_order(packed: Tensor) -> Tensor:
    """From words (K, N / 8) to integers (K, N)."""
    values = _unpacked(packed, 4)
    return values.view(values.size(0), -1, len(AWQ_PLACES))[..., list(AWQ_PLACES)].flatten(1)


def _damaged(name: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"the quantized tensors of {name} do not fit together or quantization_config: "
        "download the model again"
    )
