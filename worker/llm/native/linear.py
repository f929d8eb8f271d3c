"""Linear layers on the compiled matmul: int8 and int4 weights, activations quantized per row.

int4 weights are multiplied out of their nibbles, so they need half the memory of int8 at nearly
its speed. Biases and scales are applied before the result is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from models.model_key import Weights
from worker.llm.linear import quantize_activations
from worker.llm.native.build import has_amx
from worker.llm.native.kernels import INPUT_MULTIPLE, Kernels, filled_outputs
from worker.llm.rows import Rows


class CompiledLinear:
    """See worker.llm.linear.Linear."""

    takes_bytes = True
    is_compiled = True

    def __init__(
        self,
        kernels: Kernels,
        stored: Mapping[str, Tensor],
        weights: Weights,
        output_dtype: torch.dtype,
    ) -> None:
        """Pack the tensors that `quantize_linear` made of int8 or int4 weights, and a `bias`."""
        weight, scale = stored["weight"], stored["scale"]
        self._outputs = weight.size(0)
        filling = (0, filled_outputs(self._outputs) - self._outputs)
        self._zero: Tensor | None = None
        self._multiply: Callable[[Rows, Tensor, Tensor, Tensor | None, Tensor], None]
        if weights is Weights.INT8:
            self._panels = kernels.pack_int8(weight)
            self._scale = F.pad(scale, filling)  # (N',)
            self._multiply = kernels.multiply_int8
        else:
            self._panels = kernels.pack_int4(weight)
            self._scale = F.pad(scale.t(), filling).contiguous()  # (K'/group, N')
            self._zero = _zero_points(stored, filling)
            self._multiply = partial(kernels.multiply_int4, zeros=self._zero)
        self._bias = stored.get("bias")
        self._output_dtype = output_dtype

    def __call__(self, x: Rows) -> Rows:
        if x.values.dtype is not torch.uint8:
            x = quantize_activations(x.applied())
        output = torch.empty((x.values.size(0), self._outputs), dtype=self._output_dtype)
        self._multiply(x, self._panels, self._scale, self._bias, output)
        return Rows(output)

    @property
    def weight_bytes(self) -> int:
        zero_bytes = 0 if self._zero is None else self._zero.nbytes
        return self._panels.nbytes + self._scale.nbytes + zero_bytes


def _zero_points(stored: Mapping[str, Tensor], filling: tuple[int, int]) -> Tensor | None:
    """(K'/group, N') uint8 of weights that have them."""
    return F.pad(stored["zero"].t(), filling).contiguous() if "zero" in stored else None


def is_compiled_faster(inputs: int, weights: Weights) -> bool:
    """Whether a layer of so many inputs should be a `CompiledLinear`.

    With AMX oneDNN is the faster one for int8; it has no kernel for int4.
    """
    if inputs % INPUT_MULTIPLE:  # of rows: those of int4 weights are filled up
        return False
    return weights is Weights.INT4 or (weights is Weights.INT8 and not has_amx())
