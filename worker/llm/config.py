"""The shape of a model, read from a checkpoint's config.json by an allow-list.

Only what changes the arithmetic is read; a value that would change it in a way that is not built
here is refused instead of ignored. Must not know torch: the command line reads models with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from models.errors import NotFoundError, UnsafeModel, UnsupportedModel
from worker.llm.config_fields import flag, number, optional_number, size, token_ids
from worker.llm.families import FAMILIES, Family, HeadNorm, LayerKind, Norms
from worker.llm.rope import Rope, short_context_tokens

MAX_CONFIG_BYTES = 1 << 20
Activation = Literal["silu", "gelu_pytorch_tanh"]
ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "gelu_new": "gelu_pytorch_tanh",  # the same formula
}

# What config.json may carry into an artifact. `torch_dtype` and `dtype` are left out: the weights
# of an artifact say themselves what they are.
KEPT_KEYS = frozenset(
    {
        "_sliding_window_pattern", "architectures", "attention_bias", "attn_logit_softcapping",
        "bos_token_id", "eos_token_id", "final_logit_softcapping", "head_dim", "hidden_act",
        "hidden_activation", "hidden_size", "intermediate_size", "layer_types",
        "max_position_embeddings", "max_window_layers", "mlp_bias", "model_type",
        "no_rope_layer_interval", "no_rope_layers", "num_attention_heads", "num_hidden_layers",
        "num_key_value_heads", "original_max_position_embeddings", "pad_token_id",
        "partial_rotary_factor", "query_pre_attn_scalar", "rms_norm_eps", "rope_local_base_freq",
        "rope_parameters", "rope_scaling", "rope_theta", "sliding_window", "sliding_window_pattern",
        "tie_word_embeddings", "use_bidirectional_attention", "use_sliding_window", "vocab_size",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder; the names are those of transformers' LlamaConfig where it has one.

    The fields from `norms` on are those of Llama unless a family says otherwise.
    """

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
    rope: Rope = field(default_factory=Rope)
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    norms: Norms = "before"
    adds_one_to_norms: bool = False
    head_norm: HeadNorm | None = None
    activation: Activation = "silu"
    embedding_scale: float = 1.0
    query_scale: float = 1.0  # beside the usual 1/sqrt(head_dim)
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    is_fused: bool = False  # the checkpoint's matrices
    kinds: tuple[LayerKind, ...] = ()  # of the layers; empty: all attend to everything, by `rope`

    @property
    def num_queries_per_kv(self) -> int:
        """Query heads that share one key-value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def architecture(self) -> str:
        """One line for people: `llama, 22 layers, hidden 2048`."""
        return f"{self.model_type}, {self.num_layers} layers, hidden {self.hidden_size}"

    def kind(self, layer: int) -> LayerKind:
        """How a layer attends."""
        return self.kinds[layer] if self.kinds else LayerKind(self.rope)


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
    """Turn the object of a config.json into a ModelConfig; raises as `read_model_config`.

    Refuses a quantized checkpoint: who can read its tensors takes `quantization_config` out before.
    """
    family = _family(raw)
    if not family.ships_code:
        refuse_code(raw)
    _refuse_options(raw, family)
    hidden, heads = size(raw, "hidden_size"), size(raw, "num_attention_heads")
    layers = size(raw, "num_hidden_layers")
    head_dim = size(raw, "head_dim", hidden // heads)
    positions = size(raw, "max_position_embeddings", family.positions)
    bias = flag(raw, "attention_bias")
    bos, pad = token_ids(raw.get("bos_token_id")), token_ids(raw.get("pad_token_id"))
    kinds = _kinds(family.kinds(raw, layers, positions, family.theta), positions)
    config = ModelConfig(
        model_type=str(raw["model_type"]),
        hidden_size=hidden,
        intermediate_size=size(raw, "intermediate_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=size(raw, "num_key_value_heads", heads if family.shares_no_heads else None),
        head_dim=head_dim,
        vocab_size=size(raw, "vocab_size"),
        max_position_embeddings=short_context_tokens(raw, positions),
        rms_norm_eps=number(raw, "rms_norm_eps", family.rms_norm_eps),
        rope=kinds[0].rope or Rope(),
        tie_word_embeddings=flag(raw, "tie_word_embeddings", family.is_tied),
        qkv_bias=bias if family.qkv_bias is None else family.qkv_bias,
        output_bias=bias if family.output_bias is None else family.output_bias,
        mlp_bias=flag(raw, "mlp_bias") if family.mlp_bias is None else family.mlp_bias,
        eos_token_ids=token_ids(raw.get("eos_token_id")),
        bos_token_id=bos[0] if bos else None,
        pad_token_id=pad[0] if pad else None,
        norms=family.norms,
        adds_one_to_norms=family.adds_one_to_norms,
        head_norm=family.head_norm,
        activation=_activation(raw, family),
        embedding_scale=math.sqrt(hidden) if family.scales_embedding else 1.0,
        query_scale=_query_scale(raw, family, head_dim),
        attention_softcap=_softcap(raw, family, "attn_logit_softcapping"),
        logit_softcap=_softcap(raw, family, "final_logit_softcapping"),
        is_fused=family.is_fused,
        kinds=() if set(kinds) == {LayerKind(kinds[0].rope)} and kinds[0].rope else kinds,
    )
    _check_heads(config)
    return config


def refuse_code(raw: Mapping[str, object]) -> None:
    """Raise UnsafeModel when the model wants to run code of its own."""
    if raw.get("auto_map"):
        raise UnsafeModel(
            "config.json names Python code to run (auto_map), which is never done: "
            "use a model whose architecture is built in"
        )


def _family(raw: Mapping[str, object]) -> Family:
    model_type = raw.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise UnsupportedModel(
            f"model_type {model_type!r} is not one of {', '.join(FAMILIES)}: "
            "try --backend transformers"
        )
    return family


def _refuse_options(raw: Mapping[str, object], family: Family) -> None:
    named = raw.get("architectures") or []
    if not isinstance(named, list) or any(name != family.architecture for name in named):
        raise UnsupportedModel(
            f"architectures {named!r} is not supported: use a {family.architecture}"
        )
    if raw.get("quantization_config") is not None:
        raise UnsupportedModel(
            "the checkpoint is already quantized: give the original model in bf16, fp16 or fp32"
        )
    if raw.get("use_bidirectional_attention"):
        raise UnsupportedModel("use_bidirectional_attention is set: such a model does not generate")


def _activation(raw: Mapping[str, object], family: Family) -> Activation:
    usual = "silu" if family.activation_key == "hidden_act" else "gelu_pytorch_tanh"
    name = raw.get(family.activation_key) or usual
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise UnsupportedModel(
            f"{family.activation_key} {name!r} is not supported: only {' and '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def _query_scale(raw: Mapping[str, object], family: Family, head_dim: int) -> float:
    """Gemma divides by the root of another number than the head's size."""
    if not family.scales_queries:
        return 1.0
    return math.sqrt(head_dim / number(raw, "query_pre_attn_scalar", 256))


def _softcap(raw: Mapping[str, object], family: Family, key: str) -> float | None:
    return optional_number(raw, key) if family.has_softcaps else None


def _kinds(kinds: tuple[LayerKind, ...], positions: int) -> tuple[LayerKind, ...]:
    """A window as wide as the context is none."""
    return tuple(
        LayerKind(kind.rope) if (kind.window_tokens or positions) >= positions else kind
        for kind in kinds
    )


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
