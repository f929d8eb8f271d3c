"""The texts of `--calibrate`: requests of a file, with answers of another where there are some."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import InputError

if TYPE_CHECKING:
    from worker.llm.calibration_texts import CalibrationTexts


def calibration_asked(prompts: Path | None, answers: Path | None) -> CalibrationTexts | None:
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
