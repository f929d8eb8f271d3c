"""What a model is calibrated on: a sample of what its users ask it, and of what it answers.

Without torch: the command line reads it, and a manifest says which it was.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from models.errors import InputError, RequestRefused
from models.generation import Prompt
from models.text.prompt_encoder import PromptEncoder

SAMPLE_TOKENS = 8192  # four times as many made no model better, and take four times as long
TEXT_TOKENS = 512  # of one text at most; what is beyond is left out
_SEED = 0


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """A prompt, and what follows it: the model's answer, or nothing."""

    prompt: Prompt
    answer: str = ""


@dataclass(frozen=True, slots=True)
class CalibrationTexts:
    """The texts to draw a sample from, in the order of their file."""

    texts: tuple[CalibrationText, ...]

    @property
    def digest(self) -> str:
        """The beginning of a SHA-256 of all of them, for manifests."""
        content = hashlib.sha256()
        for text in self.texts:
            for part in (text.prompt.model_dump_json(), text.answer):
                content.update(len(part).to_bytes(8) + part.encode())
        return content.hexdigest()[:16]

    def sample(self, encoder: PromptEncoder) -> list[Sequence[int]]:
        """The token ids of some of the texts, always the same; raises InputError for none."""
        drawn = list(self.texts)
        random.Random(_SEED).shuffle(drawn)  # the same sample every time
        sample: list[Sequence[int]] = []
        tokens = 0
        for ids in _encoded(drawn, encoder):
            sample.append(ids)
            tokens += len(ids)
            if tokens >= SAMPLE_TOKENS:
                break
        if not sample:
            raise InputError(
                "no text for the calibration can be used: give requests that this model takes"
            )
        return sample


def _encoded(texts: Sequence[CalibrationText], encoder: PromptEncoder) -> Iterator[Sequence[int]]:
    for text in texts:
        try:
            ids = [*encoder.encode(text.prompt), *encoder.encode_continuation(text.answer)]
        except RequestRefused:
            continue
        if ids:
            yield ids[:TEXT_TOKENS]
