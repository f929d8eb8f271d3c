"""What a model's config.json tells of its KV cache, also of one that only a library can read.

Must not know torch or transformers: the command line plans with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.errors import UnsupportedModel
from models.model_key import Weights
from worker.llm.config import parse_model_config, read_config_json


@dataclass(frozen=True, slots=True)
class CacheShape:
    """How many numbers a token takes, and how many tokens a sequence has at most."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    context_tokens: int

    def bytes_per_token(self, weights: Weights) -> int:
        """Keys and values over all layers, in the type that the engine computes with."""
        number_bytes = 4 if weights is Weights.FP32 else 2
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * number_bytes


def read_cache_shape(folder: Path) -> CacheShape:
    """The shape in `folder/config.json`.

    Raises NotFoundError without one, UnsupportedModel where it does not tell.
    """
    raw = read_config_json(folder)
    try:
        config = parse_model_config(raw)
    except UnsupportedModel:
        return _by_usual_names(raw)
    return CacheShape(
        config.num_layers, config.num_kv_heads, config.head_dim, config.max_position_embeddings
    )


def _by_usual_names(raw: Mapping[str, object]) -> CacheShape:
    """Of a family that is not built here: nearly all use the same names."""
    heads = _size(raw, "num_attention_heads")
    return CacheShape(
        num_layers=_size(raw, "num_hidden_layers"),
        num_kv_heads=_size(raw, "num_key_value_heads", heads),
        head_dim=_size(raw, "head_dim", _size(raw, "hidden_size") // heads),
        context_tokens=_size(raw, "max_position_embeddings"),
    )


def _size(raw: Mapping[str, object], name: str, default: int | None = None) -> int:
    value = raw.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or value < 1:
        raise UnsupportedModel(
            f"config.json gives no {name}, so no plan can be made: start workers one by one, with "
            "--threads and --kv-cache-bytes"
        )
    return value
