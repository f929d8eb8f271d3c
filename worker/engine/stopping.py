"""Whether a sequence has ended, by token ids alone; stop strings are the backend's. Torch-free."""

from __future__ import annotations

from models.generation import FinishReason
from worker.engine.sequence import Sequence


def finish_reason(sequence: Sequence, sequence_tokens: int) -> FinishReason | None:
    """Why the sequence ends with its last token; None: it goes on.

    `sequence_tokens` is the longest sequence that can run.
    """
    rules = sequence.request.stop
    num_output = sequence.num_output_tokens
    if sequence.token_ids[-1] in rules.stop_ids and num_output > rules.min_tokens:
        return "stop"
    if num_output >= rules.max_tokens or sequence.num_tokens >= sequence_tokens:
        return "length"
    return None
