"""What a scoring process is asked and what it answers; both travel as JSON. Torch-free."""

from __future__ import annotations

import math

from models.generation import Frozen, Prompt
from worker.backends.process_config import EngineProcessConfig


class ScoredText(Frozen):
    """A text to score, after a prompt that is not scored; None: the text stands alone."""

    prompt: Prompt | None = None
    text: str


class ScoringJob(Frozen):
    """One model and all texts."""

    config: EngineProcessConfig
    texts: tuple[ScoredText, ...]


class ScoringResult(Frozen):
    """Sums over all texts."""

    tokens: int
    log_likelihood: float
    likeliest: tuple[int, ...]  # token by token, in the order of the texts

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood per token."""
        return math.exp(-self.log_likelihood / self.tokens)

    def agreement(self, reference: ScoringResult) -> float:
        """The share of places where both find the same token likeliest.

        Raises ValueError for a reference of other texts or another tokenizer.
        """
        pairs = list(zip(self.likeliest, reference.likeliest, strict=True))
        return sum(ours == theirs for ours, theirs in pairs) / len(pairs)
