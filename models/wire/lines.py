"""What reading an input file yields: one value per line that is not blank.

It knows nothing of files, JSON or the database.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.generation import Prompt, Refusal
from models.params import DecodingParams

MAX_CUSTOM_ID_BYTES = 128


@dataclass(frozen=True, slots=True)
class AcceptedLine:
    """A request that can run.

    `line_number` counts from 1 in the input file; `endpoint` is the API path whose rules it obeys.
    """

    line_number: int
    custom_id: str
    prompt: Prompt
    params: DecodingParams
    endpoint: str


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line that cannot run, and why; `custom_id` is None where the line has no usable one."""

    line_number: int
    custom_id: str | None
    refusal: Refusal


Line = AcceptedLine | RefusedLine
