"""The lowest precision of IPEX's products: a setting, and part of an artifact's recipe."""

from __future__ import annotations

from enum import StrEnum


class Lowp(StrEnum):
    """The lowest precision that a multiplication of the ipex backend may use."""

    NONE = "none"  # that of the activations
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"  # activations are quantized while it runs
