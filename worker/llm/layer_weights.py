"""Which weights each linear layer of an artifact gets: one kind for all, and exceptions by name.

Without torch: the command line reads exceptions with it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from models.errors import InputError
from models.model_key import Weights
from worker.llm.calibration_texts import CalibrationTexts

EMBEDDING = "embedding"
INT4_GROUPS = (128, 64, 32)  # what the int4 kernel takes, the preferred one first


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The weights of a layer are those of the last exception whose pattern fits its name.

    Names are those of the artifact: `layers.0.qkv`, `output`, `gate_up`, `down`, `lm_head`, and
    `embedding`, which is not quantized unless an exception says so.
    Raises InputError for kinds that do not go together.
    """

    usual: Weights
    exceptions: tuple[tuple[str, Weights], ...] = ()
    int4_group: int = INT4_GROUPS[0]
    int4_zero_points: bool = False  # of each group; else the middle means zero in all
    calibration: CalibrationTexts | None = None  # how int4 weights are rounded; None: each apart

    def __post_init__(self) -> None:
        kinds = self.kinds
        if self.exceptions and Weights.FP32 in kinds:
            raise InputError("fp32 is computed in another type than all else: use it for no layer")
        if self.int4_group not in INT4_GROUPS:
            sizes = ", ".join(map(str, INT4_GROUPS))
            raise InputError(f"int4 in groups of {self.int4_group} has no kernel: give {sizes}")
        if Weights.INT4 not in kinds:
            if self.int4_group != INT4_GROUPS[0]:
                raise InputError("no layer gets int4 weights: leave out --int4-group")
            if self.int4_zero_points:
                raise InputError("no layer gets int4 weights: leave out --int4-zero-points")
            if self.calibration is not None:
                raise InputError("no layer gets int4 weights: leave out --calibrate")

    @property
    def kinds(self) -> frozenset[Weights]:
        """All weights that layers may have."""
        return frozenset({self.usual, *(weights for _, weights in self.exceptions)})

    def of(self, layer: str) -> Weights:
        """The weights of the layer of that name."""
        chosen = self.usual
        if layer == EMBEDDING and chosen is not Weights.FP32:
            chosen = Weights.BF16
        for pattern, weights in self.exceptions:
            if fnmatchcase(layer, pattern):
                chosen = weights
        return chosen

    def check_names(self, layers: Collection[str]) -> None:
        """Raise InputError for an exception that fits none of a model's layers."""
        for pattern, _ in self.exceptions:
            if not any(fnmatchcase(layer, pattern) for layer in layers):
                raise InputError(
                    f"--except {pattern} fits no layer of this model: give names such as "
                    f"{', '.join(sorted(layers)[:5])}"
                )

    @property
    def as_manifest(self) -> dict[str, str | int]:
        """What a manifest's recipe says beside the usual kind's."""
        said: dict[str, str | int] = {}
        if self.exceptions:
            said["exceptions"] = ",".join(f"{name}={weights}" for name, weights in self.exceptions)
        if self.int4_group != INT4_GROUPS[0]:
            said["group"] = self.int4_group
        if self.int4_zero_points:
            said["zeros"] = "per group"
        if self.calibration is not None:
            said["calibration"] = self.calibration.digest
        return said


def missing_inputs(inputs: int) -> int:
    """With how many zeros a row of int4 weights is filled up, for its smallest groups to fit."""
    return -inputs % INT4_GROUPS[-1]


def largest_group(inputs: int, most: int = INT4_GROUPS[0]) -> int:
    """The largest of INT4_GROUPS, at most `most`, that divides so many (filled up) inputs."""
    return next(size for size in INT4_GROUPS if size <= most and inputs % size == 0)


def parse_exceptions(texts: Sequence[str]) -> tuple[tuple[str, Weights], ...]:
    """From texts of the form PATTERN=WEIGHTS; raises InputError for any other."""
    found = []
    for text in texts:
        pattern, equals, weights = text.partition("=")
        if not pattern or not equals or weights not in set(Weights) or "," in text:
            kinds = "|".join(Weights)
            raise InputError(f"--except {text!r} cannot be used: give PATTERN={kinds}")
        found.append((pattern, Weights(weights)))
    return tuple(found)
