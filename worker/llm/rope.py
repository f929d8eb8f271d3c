"""How positions turn queries and keys: what a config.json says of it. Torch-free.

The angles are computed in `rotary.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from models.errors import UnsupportedModel
from worker.llm.config_fields import flag, number, optional_number, size

_KINDS = ("default", "dynamic", "linear", "llama3", "longrope", "yarn")


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """All positions divided by a factor."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's stretching of the slow rotary frequencies."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071): slow frequencies stretched, between two numbers of turns a ramp."""

    factor: float
    beta_fast: float
    beta_slow: float
    original_max_position_embeddings: int
    truncate: bool
    magnitude: float  # of the rotated queries and keys


@dataclass(frozen=True, slots=True)
class LongRopeScaling:
    """LongRoPE (arXiv 2402.13753): a divisor for each frequency, those of short contexts."""

    factors: tuple[float, ...]
    magnitude: float  # of the rotated queries and keys


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling


@dataclass(frozen=True, slots=True)
class Rope:
    """One set of rotary angles."""

    theta: float = 10000.0
    scaling: RopeScaling | None = None
    rotary_share: float = 1.0  # of a head's elements, from the first on; the others do not turn


def read_rope(raw: Mapping[str, object], default_theta: float, positions: int) -> Rope:
    """The rope of a config.json that has one for all layers; raises UnsupportedModel."""
    return rope_of(rope_fields(raw), raw, default_theta, positions)


def rope_fields(raw: Mapping[str, object]) -> Mapping[str, object]:
    """transformers 5 writes `rope_parameters` with the base inside, older ones `rope_scaling`."""
    for key in ("rope_parameters", "rope_scaling"):
        value = raw.get(key)
        if isinstance(value, dict):
            return value
        if value is not None:
            raise UnsupportedModel(f"{key} of config.json is no object: download the model again")
    return {}


def rope_of(
    fields: Mapping[str, object], raw: Mapping[str, object], default_theta: float, positions: int
) -> Rope:
    """The rope that these fields describe; what they leave out stands beside them in `raw`."""
    theta = number(fields, "rope_theta", number(raw, "rope_theta", default_theta))
    share = number(fields, "partial_rotary_factor", number(raw, "partial_rotary_factor", 1.0))
    if share > 1:
        raise UnsupportedModel(f"partial_rotary_factor is {share}: at most 1 makes sense")
    return Rope(theta, _scaling(fields, raw, positions), share)


def short_context_tokens(raw: Mapping[str, object], positions: int) -> int:
    """The context that a rope is exact for: two kinds turn all keys in another way above it.

    Switching in the middle of a sequence would need all of its keys turned anew.
    """
    fields = rope_fields(raw)
    if _kind(fields) not in ("dynamic", "longrope"):
        return positions
    return min(positions, _original(fields, raw, positions))


def _kind(fields: Mapping[str, object]) -> object:
    kind = fields.get("rope_type", fields.get("type", "default"))
    return "longrope" if kind == "su" else kind  # its first name


def _scaling(
    fields: Mapping[str, object], raw: Mapping[str, object], positions: int
) -> RopeScaling | None:
    kind = _kind(fields)
    if kind in ("default", "dynamic"):  # which stretches nothing within its context
        return None
    if kind == "linear":
        return LinearScaling(number(fields, "factor"))
    if kind == "llama3":
        return _llama3(fields, positions)
    if kind == "yarn":
        return _yarn(fields, raw, positions)
    if kind == "longrope":
        return _longrope(fields, raw, positions)
    raise UnsupportedModel(
        f"rope scaling {kind!r} is not supported: use a model with one of {', '.join(_KINDS)}"
    )


def _llama3(fields: Mapping[str, object], positions: int) -> Llama3Scaling:
    scaling = Llama3Scaling(
        factor=number(fields, "factor"),
        low_freq_factor=number(fields, "low_freq_factor"),
        high_freq_factor=number(fields, "high_freq_factor"),
        original_max_position_embeddings=_original(fields, {}, positions),
    )
    if scaling.low_freq_factor >= scaling.high_freq_factor:
        raise UnsupportedModel(
            "rope scaling needs low_freq_factor below high_freq_factor: "
            "config.json is damaged, download the model again"
        )
    return scaling


def _yarn(fields: Mapping[str, object], raw: Mapping[str, object], positions: int) -> YarnScaling:
    original = _original(fields, raw, positions)
    factor = number(fields, "factor", positions / original)
    return YarnScaling(
        factor=factor,
        beta_fast=number(fields, "beta_fast", 32),
        beta_slow=number(fields, "beta_slow", 1),
        original_max_position_embeddings=original,
        truncate=flag(fields, "truncate", default=True),
        magnitude=_yarn_magnitude(fields, factor),
    )


def _yarn_magnitude(fields: Mapping[str, object], factor: float) -> float:
    given = optional_number(fields, "attention_factor")
    if given is not None:
        return given
    some, all_dims = optional_number(fields, "mscale"), optional_number(fields, "mscale_all_dim")
    if some is not None and all_dims is not None:
        return _stretch(factor, some) / _stretch(factor, all_dims)
    return _stretch(factor, 1.0)


def _stretch(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _longrope(
    fields: Mapping[str, object], raw: Mapping[str, object], positions: int
) -> LongRopeScaling:
    factors = fields.get("short_factor")
    if not isinstance(factors, list) or not factors:
        raise UnsupportedModel("short_factor of config.json is no list: download the model again")
    original = _original(fields, raw, positions)
    factor = number(fields, "factor", positions / original)
    usual = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return LongRopeScaling(
        factors=tuple(number({"short_factor": value}, "short_factor") for value in factors),
        magnitude=number(fields, "attention_factor", usual),
    )


def _original(fields: Mapping[str, object], raw: Mapping[str, object], positions: int) -> int:
    beside = size(raw, "original_max_position_embeddings", positions)
    return size(fields, "original_max_position_embeddings", beside)
