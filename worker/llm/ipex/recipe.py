"""What can be chosen about a model that IPEX quantizes. Imports neither torch nor IPEX.

The names are those of IPEX. What IPEX would refuse with an assertion, or compute nonsense for, is
refused here with a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from models.errors import ArtifactError, InputError
from models.lowp import Lowp
from models.model_key import Weights

RECIPE_VERSION = 1  # counts up whenever the same checkpoint would give other tensors
TOOL = "ipex"


class ActQuant(StrEnum):
    """Which activations share a scale; for `Lowp.INT8` alone."""

    PER_TENSOR = "per_tensor"
    PER_IC_BLOCK = "per_ic_block"
    PER_BATCH = "per_batch"
    PER_BATCH_IC_BLOCK = "per_batch_ic_block"
    PER_TENSOR_SYM = "per_tensor_sym"
    PER_IC_BLOCK_SYM = "per_ic_block_sym"
    PER_BATCH_SYM = "per_batch_sym"
    PER_BATCH_IC_BLOCK_SYM = "per_batch_ic_block_sym"


class Activations(StrEnum):
    """The type of everything that is not quantized. IPEX's quantization leaves fp16 half done."""

    BF16 = "bf16"
    FP32 = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class IpexRecipe:
    """How a model is quantized and computed; raises InputError for what does not go together."""

    weights: Weights = Weights.INT8
    lowp: Lowp = Lowp.BF16
    group_size: int = -1  # inputs that share a scale; -1: all of an output
    act_quant: ActQuant = ActQuant.PER_BATCH_IC_BLOCK_SYM
    activations: Activations = Activations.BF16

    def __post_init__(self) -> None:
        if self.weights not in (Weights.INT8, Weights.INT4):
            raise InputError(f"IPEX quantizes to int8 or int4, not to {self.weights}")
        size = self.group_size
        if size != -1 and (size < 2 or size & (size - 1)):
            raise InputError(f"a group of {size} inputs is not possible: give a power of 2, or -1")

    @property
    def symmetric(self) -> bool:
        """Whether weights have no zero points, with which IPEX's int8 sums would overflow."""
        return self.weights is Weights.INT8 and self.lowp is Lowp.INT8

    def with_lowp(self, lowp: Lowp) -> IpexRecipe:
        """The same weights multiplied another way; raises InputError where they do not serve."""
        other = replace(self, lowp=lowp)
        if other.symmetric != self.symmetric:
            raise InputError(
                f"weights that were quantized to {self.weights} for {self.lowp} cannot be computed "
                f"in {lowp}: add the model again with --ipex-option lowp={lowp}"
            )
        return other

    def as_manifest(self) -> dict[str, str | int]:
        """What an artifact's manifest says of it."""
        named = {name: _plain(value) for name, value in asdict(self).items()}
        return {"tool": TOOL, "version": RECIPE_VERSION, **named}


_READERS: dict[str, tuple[Callable[[str], StrEnum | int], str]] = {
    "lowp": (Lowp, " or ".join(Lowp)),
    "group_size": (int, "-1 or a power of 2"),
    "act_quant": (ActQuant, " or ".join(ActQuant)),
    "activations": (Activations, " or ".join(Activations)),
}
OPTIONS = tuple(_READERS)


def parse_options(weights: Weights, texts: Sequence[str]) -> IpexRecipe:
    """A recipe from texts of the form KEY=VALUE; raises InputError for any other."""
    given: dict[str, Any] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key not in OPTIONS:
            raise _unusable(text, f"give KEY=VALUE, where KEY is {' or '.join(OPTIONS)}")
        read, advice = _READERS[key]
        try:
            given[key] = read(value)
        except ValueError:
            raise _unusable(text, f"{key} is {advice}") from None
    return IpexRecipe(weights=weights, **given)


def _unusable(text: str, advice: str) -> InputError:
    return InputError(f"--ipex-option {text!r} cannot be used: {advice}")


def read_recipe(manifest: Mapping[str, str | int]) -> IpexRecipe:
    """The recipe in an artifact's manifest; raises ArtifactError when it is no IPEX artifact."""
    if not is_ipex(manifest):
        raise ArtifactError(
            "the artifact was not made for the ipex backend, or by another version of it: "
            "remove it and add the model again"
        )
    try:
        return IpexRecipe(
            weights=Weights(str(manifest["weights"])),
            lowp=Lowp(str(manifest["lowp"])),
            group_size=int(manifest["group_size"]),
            act_quant=ActQuant(str(manifest["act_quant"])),
            activations=Activations(str(manifest["activations"])),
        )
    except (KeyError, ValueError, InputError) as exc:
        raise ArtifactError(
            f"the artifact's recipe cannot be read ({exc}): remove it and add the model again"
        ) from exc


def is_ipex(manifest: Mapping[str, str | int]) -> bool:
    """Whether the recipe of a manifest is one of this version of the ipex backend."""
    return manifest.get("tool") == TOOL and manifest.get("version") == RECIPE_VERSION


def _plain(value: object) -> str | int:
    return value if isinstance(value, int) else str(value)
