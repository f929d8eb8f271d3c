"""Offline quantization of one linear layer: from its weight to the tensors that are stored.

The classes in `linear.py` are built from these tensors. Nothing here is specific to a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.model_key import Weights


def quantize_linear(weight: Tensor, weights: Weights) -> dict[str, Tensor]:
    """The tensors to store for a weight (N, K) in the format `weights`."""
    if weights is Weights.FP32:
        return {"weight": weight.to(torch.float32)}
    return {"weight": weight.to(torch.bfloat16)}
