"""What an engine has done so far, and what it holds now. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """The first six only grow."""

    steps: int
    prompt_tokens: int  # computed; tokens computed again after a preemption count again
    cached_prompt_tokens: int  # found in the cache, and the prompts of duplicates
    output_tokens: int  # computed: what duplicates are told as well counts once
    preemptions: int
    forward_s: float  # in the model's forward
    running: int  # sequences
    waiting: int
    kv_blocks_used: int
