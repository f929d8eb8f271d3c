"""Rotary position embedding: the angles of each kind of rope."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.errors import UnsupportedModel
from worker.llm.rope import LinearScaling, Llama3Scaling, LongRopeScaling, Rope, YarnScaling


def rotary_frequencies(rope: Rope, head_dim: int) -> Tensor:
    """The angle per position of each pair of elements that turns (r / 2,), in float32.

    Raises UnsupportedModel when the rope was made for heads of another size.
    """
    rotary_dim = int(head_dim * rope.rotary_share)
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
    frequencies = 1.0 / (rope.theta**exponents)
    match rope.scaling:
        case None:
            return frequencies
        case LinearScaling(factor=factor):
            return frequencies / factor
        case Llama3Scaling() as scaling:
            return _llama3(frequencies, scaling)
        case YarnScaling() as scaling:
            return _yarn(frequencies, scaling, rope.theta, rotary_dim)
        case LongRopeScaling(factors=factors):
            if len(factors) != len(frequencies):
                raise UnsupportedModel(
                    f"short_factor has {len(factors)} numbers, {len(frequencies)} are needed: "
                    "config.json is damaged, download the model again"
                )
            return frequencies / torch.tensor(factors)


def rotation(positions: Tensor, frequencies: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
    """Cosine and sine (T, r / 2) of each position, in float32, times what the rope stretches."""
    angles = positions.float().unsqueeze(1) * frequencies
    if isinstance(rope.scaling, YarnScaling | LongRopeScaling):
        return angles.cos() * rope.scaling.magnitude, angles.sin() * rope.scaling.magnitude
    return angles.cos(), angles.sin()


def _llama3(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Llama 3.1: slow frequencies divided by `factor`, fast ones kept, a ramp between.

    Source: "The Llama 3 Herd of Models" and the reference code released with Llama 3.1.
    """
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_max_position_embeddings / wavelengths
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    ramp = ((turns - low) / (high - low)).clamp(0, 1)  # 0: slow, 1: fast
    return (1 - ramp) * frequencies / scaling.factor + ramp * frequencies


def _yarn(frequencies: Tensor, scaling: YarnScaling, theta: float, rotary_dim: int) -> Tensor:
    """arXiv 2309.00071, section 3.2, as in the reference code: the ramp is over pairs' numbers."""
    original = scaling.original_max_position_embeddings

    def pair_of(turns: float) -> float:
        return rotary_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    pairs = torch.arange(rotary_dim // 2, dtype=torch.float32)
    ramp = ((pairs - low) / max(high - low, 0.001)).clamp(0, 1)  # 1: slow
    return ramp * frequencies / scaling.factor + (1 - ramp) * frequencies
