"""The linear layers at run time, one class per format of the weights.

Each is built from the tensors that `quantize.py` stored and packs them for its kernel; none knows
files. No result depends on another row of the same call for int8: its sums are exact integers.
These run on every machine; `native/linear.py` has those of the compiled kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from models.model_key import Weights
from worker.llm.quantize import INT4_ZERO, unpack_nibbles
from worker.llm.rows import Rows

BYTE_LIMIT = 127  # the greatest quantized activation where all eight bits can be used
TYPICAL_ROWS = 64  # of a step, for oneDNN's choice of an order; any other number runs on it too
INT4_ROW_MULTIPLE = 16  # what the int4 kernel wants of the number of outputs
INT4_PACK_ROWS = 4096  # a multiple of every kernel's block of outputs (16, 32 or 64)


class Linear(Protocol):
    """y = x Wᵀ + b for rows x (M, K); W (N, K) is kept in whatever form the kernel wants."""

    @property
    def takes_bytes(self) -> bool:
        """Whether quantized rows are what the kernel wants."""
        ...

    @property
    def is_compiled(self) -> bool:
        """Whether the kernel is our own."""
        ...

    def __call__(self, x: Rows) -> Rows:
        """Multiply the rows; returns (M, N)."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Memory of weights and scales, the bias left out."""
        ...


class FloatLinear:
    """Weights in the compute dtype, float32 or bfloat16."""

    is_compiled = False

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = weight  # (N, K)
        self._bias = bias
        self.takes_bytes = False

    def __call__(self, x: Rows) -> Rows:
        return Rows(F.linear(x.applied(), self._weight, self._bias))

    @property
    def weight_bytes(self) -> int:
        return self._weight.nbytes


class PackedLinear:
    """bfloat16 weights in the order in which oneDNN multiplies them.

    From the order they are stored in it reads them more slowly: a fifth with 60 rows, a third with
    one.
    """

    is_compiled = False

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)
        self._bias = bias
        self.takes_bytes = False

    def __call__(self, x: Rows) -> Rows:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(
            x.applied(),
            self._packed,
            self._bias,
            "none",  # nothing fused behind it
            [],
            "",
        )
        return Rows(y)

    @property
    def weight_bytes(self) -> int:
        packed_bytes: int = self._packed.nbytes
        return packed_bytes


class Int8Linear:
    """int8 weights, activations quantized to 8 bits per row: oneDNN's u8 by s8 matmul.

    The activations must be unsigned around a zero point: with signed ones oneDNN silently takes a
    reference loop that is thousands of times slower.
    """

    is_compiled = False

    def __init__(
        self, weight: Tensor, scale: Tensor, bias: Tensor | None, output_dtype: torch.dtype
    ) -> None:
        """Pack weight (N, K) int8 with scale (N,) float32."""
        self._packed = torch.ops.onednn.qlinear_prepack(weight, None)
        self._scale = scale
        self._zero_points = torch.zeros(scale.shape, dtype=torch.int64)
        self._bias = bias
        self._output_dtype = output_dtype
        self._limit = activation_limit()
        self.takes_bytes = self._limit == BYTE_LIMIT

    def __call__(self, x: Rows) -> Rows:
        if x.values.dtype is not torch.uint8:
            x = quantize_activations(x.applied(), self._limit)
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            x.values,
            1.0,  # scale of x: each row has its own, applied afterwards
            self._limit + 1,  # zero point of x
            self._packed,
            self._scale,
            self._zero_points,
            None,  # the bias is added after the row's scale
            1.0,  # output scale and zero point: none
            0,
            self._output_dtype,
            "none",  # nothing fused behind it
            [],
            "",
        )
        if self._bias is None:
            return Rows(y, x.scale)
        return Rows(Rows(y, x.scale).applied().add_(self._bias))

    @property
    def weight_bytes(self) -> int:
        packed_bytes: int = self._packed.numel()  # int8; nbytes is not known of oneDNN's layout
        return packed_bytes + self._scale.nbytes + self._zero_points.nbytes


class Int4Linear:
    """int4 weights in groups along the inputs, activations exact: ATen's int4 matmul."""

    is_compiled = False

    def __init__(
        self, weight: Tensor, scale: Tensor, bias: Tensor | None, zero: Tensor | None = None
    ) -> None:
        """Pack weight (N, K'/2) uint8 with scale (N, K'/group), as `quantize_linear` stores them.

        `zero` (N, K'/group) are the nibbles that mean zero where not all are the middle.

        The packing follows this machine's instruction set, so it is made here and never stored.
        """
        self._outputs = weight.size(0)
        self._inputs = weight.size(1) * 2  # K'
        self._group = self._inputs // scale.size(1)
        self._packed = _pack_int4(weight)
        missing = self._packed.size(0) - self._outputs
        shift = torch.zeros_like(scale)  # what the middle means
        if zero is not None:
            shift = (scale.float() * (INT4_ZERO - zero.float())).to(scale.dtype)
        scale_and_shift = torch.stack((scale, shift), dim=-1).transpose(0, 1)  # (K'/group, N, 2)
        self._scale_and_zero = F.pad(scale_and_shift, (0, 0, 0, missing)).contiguous()
        self._bias = bias
        self.takes_bytes = False

    def __call__(self, x: Rows) -> Rows:
        values = x.applied()
        if values.size(1) != self._inputs:
            values = F.pad(values, (0, self._inputs - values.size(1)))
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            values.contiguous(), self._packed, self._group, self._scale_and_zero
        )
        y = y[:, : self._outputs].contiguous()
        return Rows(y if self._bias is None else y + self._bias)

    @property
    def weight_bytes(self) -> int:
        return self._packed.nbytes + self._scale_and_zero.nbytes


def build_linear(
    stored: Mapping[str, Tensor], weights: Weights, *, output_dtype: torch.dtype = torch.bfloat16
) -> Linear:
    """The layer of the tensors `quantize_linear` made, and of an optional `bias`.

    `output_dtype` is what an int8 layer returns; the others return the type of their input.
    """
    bias = stored.get("bias")
    if weights is Weights.INT8:
        return Int8Linear(stored["weight"], stored["scale"], bias, output_dtype)
    if weights is Weights.INT4:
        return Int4Linear(stored["weight"], stored["scale"], bias, stored.get("zero"))
    if weights is Weights.BF16 and packs_bfloat16():
        return PackedLinear(stored["weight"], bias)
    return FloatLinear(stored["weight"], bias)


def packs_bfloat16() -> bool:
    """Whether this PyTorch and this CPU multiply packed bfloat16 weights."""
    return torch.backends.mkldnn.is_available() and bool(  # type: ignore[no-untyped-call]
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def quantize_activations(x: Tensor, limit: int = BYTE_LIMIT) -> Rows:
    """Rows (M, K) as uint8 around the zero point `limit` + 1, with the scale (M,) of each row.

    The scale is rounded to bfloat16 first, so that multiplying a bfloat16 result by it is exact
    but for one rounding.
    """
    wide = x.float()
    scale = wide.abs().amax(dim=1, keepdim=True).div_(limit).to(torch.bfloat16).float()
    scale = scale.clamp_min_(1e-30)  # a row of zeros
    values = wide.div(scale).round_().clamp_(-limit, limit).add_(limit + 1)
    return Rows(values.to(torch.uint8), scale.squeeze(1))


@cache
def activation_limit() -> int:
    """The greatest quantized activation that is summed exactly here: 127 with VNNI, else 63.

    CPUs without VNNI add pairs of products in 16 bits, which saturate: 2 * 255 * 127 does not fit,
    2 * 127 * 127 does. Found by trying, because it is oneDNN that chooses the instructions.
    """
    weight = torch.full((16, 64), 127, dtype=torch.int8)
    layer = torch.ops.onednn.qlinear_prepack(weight, None)
    x = torch.full((1, 64), 255, dtype=torch.uint8)
    ones, zeros = torch.ones(16), torch.zeros(16, dtype=torch.int64)
    y = torch.ops.onednn.qlinear_pointwise(
        x, 1.0, 128, layer, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return BYTE_LIMIT if bool((y == 64 * 127 * 127).all()) else 63


def _pack_int4(weight: Tensor) -> Tensor:
    """ATen's packing (N', K'/2) of stored nibbles; N' is N filled up to a multiple of 16."""
    weight = F.pad(weight, (0, 0, 0, -weight.size(0) % INT4_ROW_MULTIPLE), value=INT4_ZERO * 17)
    packed = torch.empty_like(weight)
    for start in range(0, weight.size(0), INT4_PACK_ROWS):  # the kernel's input is 8 times as big
        rows = slice(start, start + INT4_PACK_ROWS)
        values = unpack_nibbles(weight[rows]).to(torch.int32)
        packed[rows] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1)
    return packed
