"""What the flags of the group `rounding` say of how a model's weights are rounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import InputError
from models.model_key import Weights

if TYPE_CHECKING:
    from worker.llm.calibration_texts import CalibrationTexts
    from worker.llm.ipex.recipe import IpexRecipe
    from worker.llm.layer_weights import LayerWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """The flags by their parameters' names, as given."""

    exceptions: Sequence[str] = ()
    int4_group: int | None = None
    int4_zero_points: bool = False
    calibrate: Path | None = None
    calibrate_answers: Path | None = None
    ipex_options: Sequence[str] = ()

    def layers(self, weights: Weights) -> LayerWeights | None:
        """What they say of layers, None when they say nothing.

        Raises InputError, and InputFileError for files to calibrate on.
        """
        from worker.llm.layer_weights import INT4_GROUPS, LayerWeights, parse_exceptions

        calibration = _calibration(self.calibrate, self.calibrate_answers)
        is_asked = self.exceptions or self.int4_group is not None or self.int4_zero_points
        if not is_asked and calibration is None:
            return None
        group = INT4_GROUPS[0] if self.int4_group is None else self.int4_group
        return LayerWeights(
            weights,
            parse_exceptions(self.exceptions),
            group,
            int4_zero_points=self.int4_zero_points,
            calibration=calibration,
        )

    def ipex(self, weights: Weights) -> IpexRecipe | None:
        """What they say of IPEX's options, None when they say nothing; raises InputError."""
        from worker.llm.ipex.recipe import parse_options

        return parse_options(weights, self.ipex_options) if self.ipex_options else None


def _calibration(prompts: Path | None, answers: Path | None) -> CalibrationTexts | None:
    """What the flags name, None where they name nothing.

    Raises InputFileError, and InputError for answers that belong to none of the requests.
    """
    if prompts is None:
        if answers is not None:
            raise InputError("--calibrate-answers needs their requests: give --calibrate FILE")
        return None
    from cli.answers import read_expected
    from models.wire.input import read_lines
    from models.wire.lines import AcceptedLine
    from worker.llm.calibration_texts import CalibrationText, CalibrationTexts

    known = {} if answers is None else read_expected(answers)
    lines = read_lines(prompts, model_name=None)
    accepted = [line for line in lines if isinstance(line, AcceptedLine)]
    if known and known.keys().isdisjoint(line.custom_id for line in accepted):
        raise InputError(
            f"{answers} answers no request of {prompts}: give files whose custom_id are the same"
        )
    return CalibrationTexts(
        tuple(CalibrationText(line.prompt, known.get(line.custom_id, "")) for line in accepted)
    )
