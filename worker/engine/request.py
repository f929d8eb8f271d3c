"""What the engine is asked for: token ids and resolved parameters, nothing left to default.

Torch-free. Text, templates and defaults are the backend's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LEAST_TEMPERATURE = 1e-5  # logits divided by less may overflow; the draw is certain long before


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen from the logits; the field's default changes nothing.

    `temperature` 0, and what is next to it, takes the most likely token. `seed` makes the samples
    of a request its own.
    """

    temperature: float = 0.0
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    top_logprobs: int | None = None  # None: no log probabilities at all

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature < LEAST_TEMPERATURE

    @property
    def penalizes(self) -> bool:
        """Whether tokens seen before change the logits."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )


@dataclass(frozen=True, slots=True)
class StopRules:
    """When a sequence ends; `stop_ids` holds the end-of-text ids too, unless they are ignored.

    Before `min_tokens` tokens the `suppressed_ids` are never sampled.
    """

    max_tokens: int
    min_tokens: int = 0
    stop_ids: frozenset[int] = frozenset()
    suppressed_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One prompt, continued `n` times; `key` is unique among the requests in flight."""

    key: str
    prompt_ids: tuple[int, ...]
    stop: StopRules
    sampling: SamplingParams = field(default_factory=SamplingParams)
    n: int = 1
