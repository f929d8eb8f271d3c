"""What the families of architectures do differently, as data. Torch-free.

Everything else of a model is in its config.json. Each family is compared with transformers in
tests/llm/test_families.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from models.errors import UnsupportedModel
from worker.llm.config_fields import flag, number, size
from worker.llm.rope import Rope, read_rope, rope_fields, rope_of

Norms = Literal["before", "after", "both"]  # where a layer's two blocks are normed
HeadNorm = Literal["head", "width"]  # of queries and keys: each head, or all heads together
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, slots=True)
class LayerKind:
    """How one layer attends."""

    rope: Rope | None  # None: positions do not matter to it
    window_tokens: int | None = None  # it sees so many newest tokens, its own among them


KindsOf = Callable[[Mapping[str, object], int, int, float], tuple[LayerKind, ...]]


@dataclass(frozen=True, slots=True)
class Family:
    """One `model_type`; a field of None stands for what config.json says."""

    architecture: str
    kinds: KindsOf
    qkv_bias: bool | None = False
    output_bias: bool | None = False
    mlp_bias: bool | None = False
    head_norm: HeadNorm | None = None
    norms: Norms = "before"
    adds_one_to_norms: bool = False
    scales_embedding: bool = False
    has_softcaps: bool = False
    scales_queries: bool = False
    is_fused: bool = False  # the checkpoint has qkv and gate_up in one matrix each
    is_tied: bool = False  # where config.json does not say
    theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    positions: int | None = None
    activation_key: str = "hidden_act"
    shares_no_heads: bool = False  # without num_key_value_heads every head has its own
    ships_code: bool = False  # its checkpoints name code of the same arithmetic, which is not run


def _uniform(window_of: Callable[[Mapping[str, object]], int | None]) -> KindsOf:
    def kinds(
        raw: Mapping[str, object], layers: int, positions: int, theta: float
    ) -> tuple[LayerKind, ...]:
        rope = read_rope(raw, theta, positions)
        return (LayerKind(rope, window_of(raw)),) * layers

    return kinds


def _no_window(raw: Mapping[str, object]) -> None:
    if raw.get("sliding_window") is not None:
        raise UnsupportedModel(
            "sliding_window is set, which this architecture does not know: download the model again"
        )


def _window(raw: Mapping[str, object]) -> int | None:
    return None if raw.get("sliding_window") is None else size(raw, "sliding_window")


def _qwen_kinds(
    raw: Mapping[str, object], layers: int, positions: int, theta: float
) -> tuple[LayerKind, ...]:
    """The last layers have a window, when `use_sliding_window` says so."""
    rope = read_rope(raw, theta, positions)
    window = size(raw, "sliding_window", 4096) if flag(raw, "use_sliding_window") else None
    first = size(raw, "max_window_layers", 28) if raw.get("max_window_layers") != 0 else 0
    usual = [SLIDING if window and index >= first else FULL for index in range(layers)]
    return _of_types(raw, usual, LayerKind(rope), LayerKind(rope, window))


def _gemma2_kinds(
    raw: Mapping[str, object], layers: int, positions: int, theta: float
) -> tuple[LayerKind, ...]:
    rope = read_rope(raw, theta, positions)
    window = size(raw, "sliding_window", 4096)
    usual = [FULL if index % 2 else SLIDING for index in range(layers)]
    return _of_types(raw, usual, LayerKind(rope), LayerKind(rope, window))


def _gemma3_kinds(
    raw: Mapping[str, object], layers: int, positions: int, theta: float
) -> tuple[LayerKind, ...]:
    """Layers with a window turn by another base; their angles are never stretched."""
    fields = rope_fields(raw)
    local = fields.get(SLIDING)
    if isinstance(local, dict):  # transformers 5 has one object for each kind
        full_fields = fields.get(FULL)
        full = rope_of(full_fields if isinstance(full_fields, dict) else {}, {}, theta, positions)
        sliding = rope_of(local, {}, 10000.0, positions)
    else:
        full = rope_of(fields, raw, theta, positions)
        sliding = Rope(number(raw, "rope_local_base_freq", 10000.0))
    window = size(raw, "sliding_window", 4096)
    pattern = size(raw, "sliding_window_pattern", size(raw, "_sliding_window_pattern", 6))
    usual = [SLIDING if (index + 1) % pattern else FULL for index in range(layers)]
    return _of_types(raw, usual, LayerKind(full), LayerKind(sliding, window))


def _smollm_kinds(
    raw: Mapping[str, object], layers: int, positions: int, theta: float
) -> tuple[LayerKind, ...]:
    """Every fourth layer does without positions."""
    if flag(raw, "use_sliding_window"):
        raise UnsupportedModel("SmolLM3 with use_sliding_window is not supported")
    rope = read_rope(raw, theta, positions)
    interval = size(raw, "no_rope_layer_interval", 4)
    turns = raw.get("no_rope_layers")  # 1 for a layer with positions
    if turns is None:
        turns = [int((index + 1) % interval != 0) for index in range(layers)]
    if not isinstance(turns, list) or len(turns) != layers:
        raise UnsupportedModel(f"no_rope_layers has not {layers} entries: download the model again")
    return tuple(LayerKind(rope if turn else None) for turn in turns)


def _of_types(
    raw: Mapping[str, object], usual: list[str], full: LayerKind, sliding: LayerKind
) -> tuple[LayerKind, ...]:
    """The layers by `layer_types`, else by what is usual for the family."""
    given = usual if raw.get("layer_types") is None else raw["layer_types"]
    if not isinstance(given, list) or len(given) != len(usual) or set(given) - {FULL, SLIDING}:
        raise UnsupportedModel(
            f"layer_types of config.json are not {len(usual)} of {FULL} and {SLIDING}: use another "
            "model, or the transformers backend"
        )
    return tuple(sliding if kind == SLIDING else full for kind in given)


FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        "LlamaForCausalLM", _uniform(_no_window), qkv_bias=None, output_bias=None, mlp_bias=None,
        positions=2048, shares_no_heads=True,
    ),
    "mistral": Family("MistralForCausalLM", _uniform(_window)),
    "qwen2": Family("Qwen2ForCausalLM", _qwen_kinds, qkv_bias=True, positions=32768),
    "qwen3": Family(
        "Qwen3ForCausalLM", _qwen_kinds, qkv_bias=None, output_bias=None, head_norm="head",
        positions=32768,
    ),
    "phi3": Family(
        "Phi3ForCausalLM", _uniform(_window), is_fused=True, rms_norm_eps=1e-5, positions=4096,
        shares_no_heads=True, ships_code=True,
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM", _gemma2_kinds, qkv_bias=None, output_bias=None, norms="both",
        adds_one_to_norms=True, scales_embedding=True, has_softcaps=True, scales_queries=True,
        is_tied=True, positions=8192, activation_key="hidden_activation",
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM", _gemma3_kinds, qkv_bias=None, output_bias=None, head_norm="head",
        norms="both", adds_one_to_norms=True, scales_embedding=True, has_softcaps=True,
        scales_queries=True, is_tied=True, theta=1_000_000.0, positions=131_072,
        activation_key="hidden_activation",
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM", _uniform(_no_window), qkv_bias=None, output_bias=None,
        head_norm="width", norms="after", rms_norm_eps=1e-5, positions=2048, shares_no_heads=True,
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM", _smollm_kinds, qkv_bias=None, output_bias=None, mlp_bias=None,
        is_tied=True, theta=2_000_000.0, positions=32768,
    ),
}  # fmt: skip
