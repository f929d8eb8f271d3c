"""One choice of one request on its way through the engine. Torch-free, mutable."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from enum import Enum

from worker.engine.request import EngineRequest


class Phase(Enum):
    """Where a sequence is; a preempted one goes back to WAITING."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False, weakref_slot=True)
class Sequence:
    """Prompt and output tokens, and which of them have keys and values in the cache."""

    request: EngineRequest
    index: int  # which of the request's n choices
    arrival: int  # order in which the engine took requests
    phase: Phase = Phase.WAITING
    token_ids: list[int] = field(default_factory=list)  # prompt, then output
    num_computed: int = 0  # leading tokens whose keys and values are cached
    blocks: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)  # of leading full blocks
    cached_prompt_tokens: int | None = None  # found in the prefix cache at first admission
    preemptions: int = 0
    started_s: float | None = None  # clock of the first step with a part of this sequence

    def __post_init__(self) -> None:
        self.token_ids = list(self.request.prompt_ids)

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and output so far."""
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Tokens sampled so far."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def output_ids(self) -> Ids[int]:
        """The sampled tokens."""
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def num_uncomputed(self) -> int:
        """Tokens to run before the next one can be sampled: 1 while decoding."""
        return len(self.token_ids) - self.num_computed

    @property
    def must_not_stop(self) -> bool:
        """Whether the next token may not end the sequence (min_tokens)."""
        return self.num_output_tokens < self.request.stop.min_tokens
