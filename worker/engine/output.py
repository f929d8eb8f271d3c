"""What the engine says after a step. Knows token ids only."""

from __future__ import annotations

from dataclasses import dataclass

from models.generation import FinishReason
from worker.engine.sampling import TokenLogprobs


@dataclass(frozen=True, slots=True)
class SequenceOutput:
    """One token of one choice; the choice has ended when a reason is given or it failed.

    It fails when the model computes NaN or infinity; the token then means nothing.
    """

    key: str
    index: int
    token_id: int
    finish_reason: FinishReason | None
    logprobs: TokenLogprobs | None
    started_s: float  # monotonic clock of the first step that worked for this choice
    cached_prompt_tokens: int
    failed: bool = False
