"""The shape of a model, read from a checkpoint's config.json by an allow-list.

Only what changes the arithmetic is read; a value that would change it in a way that is not built
here is refused instead of ignored. Must not know torch: the command line reads models with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.errors import NotFoundError, UnsafeModel, UnsupportedModel

SUPPORTED_MODEL_TYPES = ("llama", "mistral")
SUPPORTED_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
MAX_CONFIG_BYTES = 1 << 20

# What config.json may carry into an artifact. `torch_dtype` and `dtype` are left out: the weights
# of an artifact say themselves what they are.
KEPT_KEYS = frozenset(
    {
        "architectures", "attention_bias", "bos_token_id", "eos_token_id", "head_dim", "hidden_act",
        "hidden_size", "intermediate_size", "max_position_embeddings", "mlp_bias", "model_type",
        "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "pad_token_id",
        "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta", "sliding_window",
        "tie_word_embeddings", "vocab_size",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama 3.1's stretching of the slow rotary frequencies."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A Llama-family decoder; the names are those of transformers' LlamaConfig where it has one."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    pad_token_id: int | None = None

    @property
    def num_queries_per_kv(self) -> int:
        """Query heads that share one key-value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def architecture(self) -> str:
        """One line for people: `llama, 22 layers, hidden 2048`."""
        return f"{self.model_type}, {self.num_layers} layers, hidden {self.hidden_size}"


def read_model_config(folder: Path) -> ModelConfig:
    """The configuration in `folder/config.json`.

    Raises NotFoundError without one, UnsafeModel when it asks for the checkpoint's own code,
    UnsupportedModel for an architecture or an option that is not built.
    """
    return parse_model_config(read_config_json(folder))


def read_config_json(folder: Path) -> dict[str, object]:
    """The object in `folder/config.json`; raises as `read_model_config`."""
    path = folder / "config.json"
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as exc:
        raise NotFoundError(
            f"{folder} holds no readable config.json: give the folder of a Hugging Face model"
        ) from exc
    try:
        value = json.loads(text) if len(text) <= MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError) as exc:
        raise UnsupportedModel(f"{path} is not JSON: download the model again") from exc
    if not isinstance(value, dict):
        raise UnsupportedModel(f"{path} is no model configuration: download the model again")
    return value


def kept_config(raw: Mapping[str, object]) -> dict[str, object]:
    """The part of config.json that an artifact keeps."""
    return {key: raw[key] for key in sorted(KEPT_KEYS & raw.keys())}


def parse_model_config(raw: Mapping[str, object]) -> ModelConfig:
    """Turn the object of a config.json into a ModelConfig; raises as `read_model_config`."""
    refuse_code(raw)
    model_type = raw.get("model_type")
    if model_type not in SUPPORTED_MODEL_TYPES:
        known = " and ".join(SUPPORTED_MODEL_TYPES)
        raise UnsupportedModel(
            f"model_type {model_type!r} is not supported: use a model of type {known}"
        )
    _refuse_options(raw)
    rope = _rope(raw)
    hidden, heads = _size(raw, "hidden_size"), _size(raw, "num_attention_heads")
    positions = _size(raw, "max_position_embeddings", 2048 if model_type == "llama" else None)
    config = ModelConfig(
        model_type=str(model_type),
        hidden_size=hidden,
        intermediate_size=_size(raw, "intermediate_size"),
        num_layers=_size(raw, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=_size(raw, "num_key_value_heads", heads if model_type == "llama" else None),
        head_dim=_size(raw, "head_dim", hidden // heads),
        vocab_size=_size(raw, "vocab_size"),
        max_position_embeddings=positions,
        rms_norm_eps=_number(raw, "rms_norm_eps", 1e-6),
        rope_theta=_number(rope, "rope_theta", _number(raw, "rope_theta", 10000.0)),
        rope_scaling=_rope_scaling(rope, positions),
        tie_word_embeddings=_flag(raw, "tie_word_embeddings"),
        attention_bias=model_type == "llama" and _flag(raw, "attention_bias"),
        mlp_bias=model_type == "llama" and _flag(raw, "mlp_bias"),
        eos_token_ids=token_ids(raw.get("eos_token_id")),
        bos_token_id=_first(token_ids(raw.get("bos_token_id"))),
        pad_token_id=_first(token_ids(raw.get("pad_token_id"))),
    )
    _check_heads(config)
    return config


def token_ids(value: object) -> tuple[int, ...]:
    """The ids in a field that holds an id, a list of ids or null."""
    values = value if isinstance(value, list) else [value]
    return tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0)


def refuse_code(raw: Mapping[str, object]) -> None:
    """Raise UnsafeModel when the model wants to run code of its own."""
    if raw.get("auto_map"):
        raise UnsafeModel(
            "config.json names Python code to run (auto_map), which is never done: "
            "use a model whose architecture is built in"
        )


def _refuse_options(raw: Mapping[str, object]) -> None:
    named = raw.get("architectures") or []
    if not isinstance(named, list) or any(name not in SUPPORTED_ARCHITECTURES for name in named):
        known = " or ".join(SUPPORTED_ARCHITECTURES)
        raise UnsupportedModel(f"architectures {named!r} is not supported: use a {known}")
    if raw.get("quantization_config") is not None:
        raise UnsupportedModel(
            "the checkpoint is already quantized: give the original model in bf16, fp16 or fp32"
        )
    if raw.get("hidden_act", "silu") != "silu":
        raise UnsupportedModel(f"hidden_act {raw['hidden_act']!r} is not supported: only 'silu' is")
    if raw.get("sliding_window") is not None:
        raise UnsupportedModel(
            "sliding-window attention is not supported: use a model with sliding_window null"
        )


def _rope(raw: Mapping[str, object]) -> Mapping[str, object]:
    """transformers 5 writes `rope_parameters` with the base inside, older ones `rope_scaling`."""
    for key in ("rope_parameters", "rope_scaling"):
        value = raw.get(key)
        if isinstance(value, dict):
            return value
        if value is not None:
            raise UnsupportedModel(f"{key} of config.json is no object: download the model again")
    return {}


def _rope_scaling(rope: Mapping[str, object], positions: int) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModel("partial rotary embeddings are not supported: use a Llama model")
    if kind == "default":
        return None
    if kind != "llama3":
        raise UnsupportedModel(
            f"rope scaling {kind!r} is not supported: use a model with 'llama3' scaling or none"
        )
    scaling = RopeScaling(
        factor=_number(rope, "factor"),
        low_freq_factor=_number(rope, "low_freq_factor"),
        high_freq_factor=_number(rope, "high_freq_factor"),
        original_max_position_embeddings=_size(rope, "original_max_position_embeddings", positions),
    )
    if scaling.low_freq_factor >= scaling.high_freq_factor:
        raise UnsupportedModel(
            "rope scaling needs low_freq_factor below high_freq_factor: "
            "config.json is damaged, download the model again"
        )
    return scaling


def _check_heads(config: ModelConfig) -> None:
    if config.num_heads % config.num_kv_heads:
        raise UnsupportedModel(
            f"{config.num_heads} attention heads cannot share {config.num_kv_heads} key-value "
            "heads: config.json is damaged, download the model again"
        )
    if config.head_dim % 2:
        raise UnsupportedModel(
            f"head_dim {config.head_dim} is odd, which rotary embeddings do not allow: "
            "config.json is damaged, download the model again"
        )


def _size(raw: Mapping[str, object], key: str, default: int | None = None) -> int:
    value = raw.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UnsupportedModel(f"{key} in config.json is {value!r}: a positive integer is needed")
    return value


def _number(raw: Mapping[str, object], key: str, default: float | None = None) -> float:
    value = raw.get(key)
    if value is None:
        value = default
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e30:
        raise UnsupportedModel(f"{key} in config.json is {value!r}: a positive number is needed")
    return float(value)


def _flag(raw: Mapping[str, object], key: str) -> bool:
    value = raw.get(key)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise UnsupportedModel(f"{key} in config.json is {value!r}: true or false is needed")
    return value


def _first(ids: tuple[int, ...]) -> int | None:
    return ids[0] if ids else None
