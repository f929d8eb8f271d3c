"""The compiled kernels as functions of tensors. Shapes and layouts are those of the C++ files."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch  # loads the OpenMP runtime that the library then shares
from torch import Tensor

from models.errors import KernelsUnavailable
from worker.llm.native.build import load_library
from worker.llm.rows import Rows

BLOCK_TOKENS = 16  # what the cache layout is made for
HEAD_DIMS = (64, 128)
WIDTH_MULTIPLE = 16
PANEL_OUTPUTS = 32  # of a matmul
INPUT_MULTIPLE = 4

_Pointer = ctypes.c_void_p
_Int = ctypes.c_int
_SIGNATURES = {
    "nightshift_attend": [_Pointer] * 5 + [_Int, _Pointer] + [_Int] * 3,
    "nightshift_add_norm": [_Pointer] * 4 + [ctypes.c_float] + [_Pointer] * 3 + [_Int] * 2,
    "nightshift_gate": [_Pointer] * 5 + [_Int] * 2,
    "nightshift_quantize": [_Pointer] * 3 + [_Int] * 2,
    "nightshift_rotate_and_cache": [_Pointer] * 8 + [_Int] * 4,
    "nightshift_multiply_int8": [_Pointer] * 7 + [_Int] * 3,
    "nightshift_multiply_int4": [_Pointer] * 8 + [_Int] * 5,
    "nightshift_pack_int8": [_Pointer] * 2 + [_Int] * 2,
    "nightshift_pack_int4": [_Pointer] * 2 + [_Int] * 2,
}


class Kernels:
    """The library of one machine. All tensors must be contiguous; bfloat16 unless said.

    Raises ValueError for other tensors, since the library would read or write beside them. What
    slots, spans and tables say is not looked at: see `NativeOperations`.
    """

    def __init__(self, cache: Path) -> None:
        """Compile or find the library; raises KernelsUnavailable."""
        self._library = load_library(cache)
        for name, arguments in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.argtypes = arguments
            function.restype = None

    def add_norm(
        self, residual: Tensor, delta: Rows | None, weight: Tensor, eps: float, *, quantize: bool
    ) -> Rows:
        """residual (T, H) += delta in place; returns norm(residual) * weight."""
        rows, width = residual.shape
        output = _new_rows(rows, width, quantize=quantize)
        self._library.nightshift_add_norm(
            _address(residual, rows, width),
            *((None, None) if delta is None else _inputs(delta, rows, width)),
            _address(weight, width),
            eps,
            *_outputs(output),
            rows,
            width,
        )
        return output

    def gate(self, gate_up: Rows, *, quantize: bool) -> Rows:
        """silu(gate) * up of rows (T, 2 I): gate first, then up."""
        rows, width = gate_up.values.size(0), gate_up.values.size(1) // 2
        output = _new_rows(rows, width, quantize=quantize)
        self._library.nightshift_gate(
            *_inputs(gate_up, rows, 2 * width), *_outputs(output), rows, width
        )
        return output

    def quantize(self, x: Tensor) -> Rows:
        """Rows (T, H) as bytes with their scales."""
        output = _new_rows(*x.shape, quantize=True)
        self._library.nightshift_quantize(_address(x, *x.shape), *_outputs(output)[:2], *x.shape)
        return output

    def pack_int8(self, weight: Tensor) -> Tensor:
        """Weights (N, K) int8 as panels (N', K) uint8, where N' is N filled up."""
        outputs, inputs = weight.shape
        if inputs % INPUT_MULTIPLE:
            raise ValueError(f"weights have {inputs} inputs: give a multiple of {INPUT_MULTIPLE}")
        panels = torch.empty((filled_outputs(outputs), inputs), dtype=torch.uint8)
        self._library.nightshift_pack_int8(
            _address(weight, outputs, inputs, dtype=torch.int8), panels.data_ptr(), outputs, inputs
        )
        return panels

    def pack_int4(self, nibbles: Tensor) -> Tensor:
        """Nibbles (N, K'/2) uint8 as `quantize_linear` stores them; panels (N', K'/2) uint8."""
        outputs, inputs = nibbles.size(0), nibbles.size(1) * 2
        if inputs % (2 * INPUT_MULTIPLE):
            raise ValueError(f"weights have {inputs} inputs: give a multiple of 8")
        panels = torch.empty((filled_outputs(outputs), inputs // 2), dtype=torch.uint8)
        self._library.nightshift_pack_int4(
            _address(nibbles, outputs, inputs // 2, dtype=torch.uint8),
            panels.data_ptr(), outputs, inputs,
        )  # fmt: skip
        return panels

    def multiply_int8(
        self, x: Rows, panels: Tensor, scales: Tensor, bias: Tensor | None, output: Tensor
    ) -> None:
        """output (T, N) bfloat16 or float32 = x Wᵀ + bias for bytes x (T, K); scales (N',)."""
        rows, outputs = output.shape
        filled, inputs = panels.shape
        self._library.nightshift_multiply_int8(
            *_bytes(x, rows, inputs),
            _address(panels, filled_outputs(outputs), inputs, dtype=torch.uint8),
            _address(scales, filled, dtype=torch.float32),
            None if bias is None else _address(bias, outputs),
            *_narrow_or_wide(output),
            rows, inputs, outputs,
        )  # fmt: skip

    def multiply_int4(
        self,
        x: Rows,
        panels: Tensor,
        scales: Tensor,
        bias: Tensor | None,
        output: Tensor,
        zeros: Tensor | None = None,
    ) -> None:
        """The same with scales (K'/group, N') bfloat16; x may have fewer than K' columns.

        `zeros` (K'/group, N') uint8 are the nibbles that mean zero, where they are not all 8.
        """
        rows, outputs = output.shape
        inputs, filled = x.values.size(1), panels.size(1) * 2
        groups = scales.size(0)
        if not inputs <= filled or inputs % INPUT_MULTIPLE or filled % (groups * 8):
            raise ValueError(f"{inputs} inputs do not fit weights of {filled} in {groups} groups")
        self._library.nightshift_multiply_int4(
            *_bytes(x, rows, inputs),
            _address(panels, filled_outputs(outputs), filled // 2, dtype=torch.uint8),
            _address(scales, groups, filled_outputs(outputs)),
            None if zeros is None else _address(zeros, *scales.shape, dtype=torch.uint8),
            None if bias is None else _address(bias, outputs),
            *_narrow_or_wide(output),
            rows, inputs, outputs, filled, filled // groups,
        )  # fmt: skip

    def rotate_and_cache(
        self,
        qkv: Rows,
        *,
        cos: Tensor,
        sin: Tensor,
        slots: Tensor,
        keys: Tensor,
        values: Tensor,
        heads: int,
    ) -> Tensor:
        """Write rotated keys and values to the cache; returns the rotated queries (T, heads, d).

        cos, sin (T, d / 2) float32; slots (T,) int32; keys, values (blocks, kv heads, 16 d).
        """
        rows, kv_heads, head_dim = qkv.values.size(0), keys.size(1), keys.size(2) // BLOCK_TOKENS
        queries = torch.empty((rows, heads, head_dim), dtype=torch.bfloat16)
        self._library.nightshift_rotate_and_cache(
            *_inputs(qkv, rows, (heads + 2 * kv_heads) * head_dim),
            _address(cos, rows, head_dim // 2, dtype=torch.float32),
            _address(sin, rows, head_dim // 2, dtype=torch.float32),
            _address(slots, rows, dtype=torch.int32),
            queries.data_ptr(),
            *_memory(keys, values, head_dim),
            rows, heads, kv_heads, head_dim,
        )  # fmt: skip
        return queries

    def attend(
        self, queries: Tensor, *, keys: Tensor, values: Tensor, spans: Tensor, tables: Tensor
    ) -> Tensor:
        """Causal attention of queries (T, heads, d); returns the same shape.

        spans (n, 4) int32: first row, rows, context, where the block table starts in `tables`.
        """
        rows, heads, head_dim = queries.shape
        kv_heads = keys.size(1)
        if heads % kv_heads:
            raise ValueError(f"{heads} heads cannot share {kv_heads} key heads: give a multiple")
        output = torch.empty((rows, heads, head_dim), dtype=torch.bfloat16)
        self._library.nightshift_attend(
            _address(queries, rows, heads, head_dim), output.data_ptr(),
            *_memory(keys, values, head_dim),
            _address(spans, spans.size(0), 4, dtype=torch.int32), spans.size(0),
            _address(tables, tables.numel(), dtype=torch.int32), heads, kv_heads, head_dim,
        )  # fmt: skip
        return output


@dataclass(frozen=True, slots=True)
class OpenedKernels:
    """The library, or the reason why there is none."""

    library: Kernels | None
    reason: str

    def described(self, *, steps: bool, matmuls: bool) -> str:
        """For people: whether matmuls and the steps between them are compiled, and why not."""
        if steps:
            return "compiled" if matmuls else "compiled between the matmuls"
        reason = self.reason or "not made for a model of this shape"
        return f"{'compiled matmuls, else ' if matmuls else ''}PyTorch ({reason})"


def open_kernels(cache: Path | None) -> OpenedKernels:
    """Compile or find the library; never fails, since PyTorch can do the same more slowly."""
    if cache is None:
        return OpenedKernels(None, "switched off")
    try:
        return OpenedKernels(Kernels(cache), "")
    except KernelsUnavailable as exc:
        return OpenedKernels(None, str(exc))


def filled_outputs(outputs: int) -> int:
    """Outputs filled up to whole panels."""
    return -(-outputs // PANEL_OUTPUTS) * PANEL_OUTPUTS


def _new_rows(rows: int, width: int, *, quantize: bool) -> Rows:
    if width % WIDTH_MULTIPLE:
        raise ValueError(f"rows are {width} wide: give a multiple of {WIDTH_MULTIPLE}")
    if quantize:
        return Rows(torch.empty((rows, width), dtype=torch.uint8), torch.empty(rows))
    return Rows(torch.empty((rows, width), dtype=torch.bfloat16), None)


def _address(tensor: Tensor, *shape: int, dtype: torch.dtype = torch.bfloat16) -> int:
    """Where the tensor lies, once it is what the library takes it for."""
    if tensor.dtype is not dtype or tensor.shape != shape or not tensor.is_contiguous():
        raise ValueError(
            f"a tensor is {tuple(tensor.shape)} {tensor.dtype} with strides {tensor.stride()}: "
            f"give {shape} {dtype}, contiguous"
        )
    return tensor.data_ptr()


def _inputs(rows: Rows, *shape: int) -> tuple[int, int | None]:
    """Values and open factors."""
    values = _address(rows.values, *shape)
    if rows.scale is None:
        return values, None
    return values, _address(rows.scale, shape[0], dtype=torch.float32)


def _bytes(x: Rows, rows: int, inputs: int) -> tuple[int, int]:
    """Quantized rows and their factors."""
    if x.scale is None:
        raise ValueError("rows are not quantized: give bytes with a scale")
    values = _address(x.values, rows, inputs, dtype=torch.uint8)
    return values, _address(x.scale, rows, dtype=torch.float32)


def _narrow_or_wide(output: Tensor) -> tuple[int | None, int | None]:
    """Where a matmul's result goes, by its type."""
    if output.dtype is torch.float32:
        return None, _address(output, *output.shape, dtype=torch.float32)
    return _address(output, *output.shape), None


def _memory(keys: Tensor, values: Tensor, head_dim: int) -> tuple[int, int]:
    """The cache of one layer."""
    if head_dim not in HEAD_DIMS:
        raise ValueError(f"heads are {head_dim} wide: give one of {HEAD_DIMS}")
    shape = (keys.size(0), keys.size(1), BLOCK_TOKENS * head_dim)
    return _address(keys, *shape), _address(values, *shape)


def _outputs(output: Rows) -> tuple[int | None, int | None, int | None]:
    """Bytes, scales and plain values: one or the other."""
    if output.scale is None:
        return None, None, output.values.data_ptr()
    return output.values.data_ptr(), output.scale.data_ptr(), None
