"""Linear layers on the compiled matmul: int8 and int4 weights, activations quantized per row.

int4 weights are multiplied out of their nibbles, so they need half the memory of int8 at nearly
its speed. Biases and scales are applied before the result is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from models.model_key import Weights
from worker.llm.linear import Linear, quantize_activations
from worker.llm.native.build import has_amx
from worker.llm.native.kernels import INPUT_MULTIPLE, Kernels, filled_outputs
from worker.llm.rows import Rows


class CompiledInt8Linear:
    """See worker.llm.linear.Linear."""

    takes_bytes = True

    def __init__(
        self,
        kernels: Kernels,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        output_dtype: torch.dtype,
    ) -> None:
        """Pack weight (N, K) int8 with scale (N,) float32."""
        self._kernels = kernels
        self._outputs = weight.size(0)
        self._panels = kernels.pack_int8(weight)
        self._scale = F.pad(scale, (0, filled_outputs(self._outputs) - self._outputs))
        self._bias = bias
        self._output_dtype = output_dtype

    def __call__(self, x: Rows) -> Rows:
        x = _quantized(x)
        output = torch.empty((x.values.size(0), self._outputs), dtype=self._output_dtype)
        self._kernels.multiply_int8(x, self._panels, self._scale, self._bias, output)
        return Rows(output)

    @property
    def weight_bytes(self) -> int:
        return self._panels.nbytes + self._scale.nbytes


class CompiledInt4Linear:
    """See worker.llm.linear.Linear."""

    takes_bytes = True

    def __init__(
        self,
        kernels: Kernels,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        output_dtype: torch.dtype,
    ) -> None:
        """Pack weight (N, K'/2) uint8 with scale (N, K'/group), as `quantize_linear` stores it."""
        self._kernels = kernels
        self._outputs = weight.size(0)
        self._panels = kernels.pack_int4(weight)
        missing = filled_outputs(self._outputs) - self._outputs
        self._scale = F.pad(scale.t(), (0, missing)).contiguous()  # (K'/group, N')
        self._bias = bias
        self._output_dtype = output_dtype

    def __call__(self, x: Rows) -> Rows:
        x = _quantized(x)
        output = torch.empty((x.values.size(0), self._outputs), dtype=self._output_dtype)
        self._kernels.multiply_int4(x, self._panels, self._scale, self._bias, output)
        return Rows(output)

    @property
    def weight_bytes(self) -> int:
        return self._panels.nbytes + self._scale.nbytes


def is_compiled_faster(weight: Tensor, weights: Weights) -> bool:
    """Whether the stored weight should be multiplied by the layers of this module.

    With AMX oneDNN is the faster one for int8; it has no kernel for int4.
    """
    if weights is Weights.INT8:
        return not has_amx() and weight.size(1) % INPUT_MULTIPLE == 0
    return weights is Weights.INT4


def build_compiled_linear(
    kernels: Kernels, stored: Mapping[str, Tensor], weights: Weights, output_dtype: torch.dtype
) -> Linear:
    """The layer of the tensors that `quantize_linear` made of int8 or int4 weights."""
    layer = CompiledInt8Linear if weights is Weights.INT8 else CompiledInt4Linear
    return layer(kernels, stored["weight"], stored["scale"], stored.get("bias"), output_dtype)


def _quantized(x: Rows) -> Rows:
    return x if x.values.dtype is torch.uint8 else quantize_activations(x.applied())
