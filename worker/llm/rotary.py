"""Rotary position embedding: the angles of the Llama family."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worker.llm.config import ModelConfig, RopeScaling


def rotary_frequencies(config: ModelConfig) -> Tensor:
    """The angle per position of each pair of elements (d / 2,), in float32."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    if config.rope_scaling is None:
        return frequencies
    return _stretched(frequencies, config.rope_scaling)


def rotation(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (T, d / 2) of each position, in float32."""
    angles = positions.float().unsqueeze(1) * frequencies
    return angles.cos(), angles.sin()


def _stretched(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1: slow frequencies divided by `factor`, fast ones kept, a ramp between.

    Source: "The Llama 3 Herd of Models" and the reference code released with Llama 3.1.
    """
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_max_position_embeddings / wavelengths
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    ramp = ((turns - low) / (high - low)).clamp(0, 1)  # 0: slow, 1: fast
    return (1 - ramp) * frequencies / scaling.factor + ramp * frequencies
