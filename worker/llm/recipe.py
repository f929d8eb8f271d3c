"""How weights are quantized, in words and numbers: what a manifest says of it.

Without torch, so that an artifact can be compared with what would be made today before anything
heavy is loaded. The arithmetic is `quantize.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from models.backend_name import BackendName
from models.model_key import Weights
from worker.llm.ipex.recipe import IpexRecipe

RECIPE_VERSION = 1  # counts up whenever the same checkpoint would give other tensors
# What a quantized checkpoint decides itself: an artifact of the same source says it again.
ORIGIN_KEYS = frozenset({"checkpoint", "rounding", "group"})
INT4_GROUPS = (128, 64, 32)  # what the int4 kernel takes, the preferred one first


def recipe(weights: Weights, backend: BackendName = BackendName.NATIVE) -> dict[str, str | int]:
    """How `quantize_linear` treats a weight, for the manifest; equal recipes, equal tensors.

    Raises InputError for weights that the backend has not.
    """
    if backend is BackendName.IPEX:
        return IpexRecipe(weights=weights).as_manifest()
    method: dict[Weights, dict[str, str | int]] = {
        Weights.FP32: {},
        Weights.BF16: {},
        Weights.INT8: {"scales": "per output", "rounding": "nearest"},
        Weights.INT4: {"scales": "per group", "group": INT4_GROUPS[0], "rounding": "least squares"},
    }
    made_for = {} if backend is BackendName.NATIVE else {"backend": str(backend)}
    return {"version": RECIPE_VERSION, "weights": str(weights), **made_for, **method[weights]}


def is_recipe(said: Mapping[str, str | int], wanted: Mapping[str, str | int]) -> bool:
    """Whether a manifest that says `said` was made as is `wanted`, from whatever checkpoint."""
    if "checkpoint" not in said:
        return said == wanted
    rest = {key: value for key, value in said.items() if key not in ORIGIN_KEYS}
    return rest == {key: value for key, value in wanted.items() if key not in ORIGIN_KEYS}


def origin_in_words(said: Mapping[str, str | int]) -> str | None:
    """What a manifest says of a checkpoint that was quantized already, and what became of it."""
    if "checkpoint" not in said:
        return None
    checkpoint, rounding = str(said["checkpoint"]), said.get("rounding")
    if rounding is None:
        return f"{checkpoint}; dequantized"
    is_kept = checkpoint.startswith(f"{rounding},")
    return f"{checkpoint}; " + ("its integers are kept" if is_kept else "rounded a second time")
