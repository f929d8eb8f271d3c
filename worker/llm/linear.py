"""The linear layers at run time, one class per format of the weights.

Each is built from the tensors that `quantize.py` stored and knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor
from torch.nn import functional as F

from models.model_key import Weights


class Linear(Protocol):
    """y = x Wᵀ + b for rows x (M, K); W (N, K) is kept in whatever form the kernel wants."""

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply the rows; the result (M, N) has the compute dtype."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Memory of weights and scales, the bias left out."""
        ...


class FloatLinear:
    """Weights in the compute dtype, float32 or bfloat16."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = weight  # (N, K)
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)

    @property
    def weight_bytes(self) -> int:
        return self._weight.nbytes


def build_linear(stored: Mapping[str, Tensor], weights: Weights) -> Linear:
    """The layer of stored tensors `weight`, optional `bias`, and what the format adds to them."""
    bias = stored.get("bias")
    return FloatLinear(stored["weight"], bias)
