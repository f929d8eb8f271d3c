"""How weights are quantized, in words and numbers: what a manifest says of it.

Without torch, so that an artifact can be compared with what would be made today before anything
heavy is loaded. The arithmetic is `quantize.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from models.backend_name import BackendName
from models.errors import InputError
from models.model_key import Weights
from worker.llm.ipex.recipe import OPTIONS, IpexRecipe
from worker.llm.layer_weights import INT4_GROUPS, LayerWeights

RECIPE_VERSION = 1  # counts up whenever the same checkpoint would give other tensors
# What flags choose beside the kind of weights: an artifact may have any of it unless they do.
ASKED_KEYS = frozenset({"exceptions", "group", "zeros", "calibration", *OPTIONS})
# What a checkpoint decides whose integers are kept: an artifact of the same source says it again.
KEPT_KEYS = frozenset({"rounding", "group"})


def recipe(
    weights: Weights,
    backend: BackendName = BackendName.NATIVE,
    layers: LayerWeights | None = None,
    ipex: IpexRecipe | None = None,
) -> dict[str, str | int]:
    """How `quantize_linear` treats a weight, for the manifest; equal recipes, equal tensors.

    Raises InputError for weights that the backend has not, for exceptions outside of native, and
    for IPEX's options outside of ipex.
    """
    if layers is not None and backend is not BackendName.NATIVE:
        raise InputError(
            f"the {backend} backend has no choice of layers or roundings: leave out --except, "
            "--int4-group, --int4-zero-points and --calibrate, or use --backend native"
        )
    if ipex is not None and backend is not BackendName.IPEX:
        raise InputError(
            f"the {backend} backend has none of IPEX's options: leave out --ipex-option, or use "
            "--backend ipex"
        )
    if backend is BackendName.IPEX:
        return (ipex or IpexRecipe(weights=weights)).as_manifest()
    method: dict[Weights, dict[str, str | int]] = {
        Weights.FP32: {},
        Weights.BF16: {},
        Weights.INT8: {"scales": "per output", "rounding": "nearest"},
        Weights.INT4: {"scales": "per group", "group": INT4_GROUPS[0], "rounding": "least squares"},
    }
    more = {} if layers is None else layers.as_manifest
    made_for = {} if backend is BackendName.NATIVE else {"backend": str(backend)}
    return {
        "version": RECIPE_VERSION,
        "weights": str(weights),
        **made_for,
        **method[weights],
        **more,
    }


def is_recipe(
    said: Mapping[str, str | int], wanted: Mapping[str, str | int], *, is_asked: bool
) -> bool:
    """Whether a manifest that says `said` was made as is `wanted`, from whatever checkpoint.

    Exceptions for layers and options do not count unless somebody asks for certain ones, or none.
    """
    free = frozenset({"checkpoint"})
    free |= KEPT_KEYS if _are_integers_kept(said) else frozenset()
    free |= frozenset() if is_asked else ASKED_KEYS
    rest = {key: value for key, value in said.items() if key not in free}
    return rest == {key: value for key, value in wanted.items() if key not in free}


def origin_in_words(said: Mapping[str, str | int]) -> str | None:
    """What a manifest says of a checkpoint that was quantized already, and what became of it."""
    if "checkpoint" not in said:
        return None
    checkpoint = said["checkpoint"]
    if "rounding" not in said:
        return f"{checkpoint}; dequantized"
    is_kept = _are_integers_kept(said)
    return f"{checkpoint}; " + ("its integers are kept" if is_kept else "rounded a second time")


def _are_integers_kept(said: Mapping[str, str | int]) -> bool:
    return str(said.get("checkpoint")).startswith(f"{said.get('rounding')},")
