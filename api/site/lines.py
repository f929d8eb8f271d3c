"""Batches, and their requests, as the page shows them: what is worked out before rendering."""

from __future__ import annotations

from dataclasses import dataclass

from models.generation import ChatPrompt, Prompt, TextPrompt
from models.projections import OutputKind, output_file
from models.store.speed import BatchSpeed
from models.store.views import PAUSABLE, Batch, RequestRecord

FOLDED_FROM = 600  # characters; longer texts are opened on demand
SHOWN_CHARACTERS = 8_000  # of one text; the rest is in the output file
_PREVIEW_CHARACTERS = 240
_STEP = 10  # per cent: what is said aloud of a batch's progress


@dataclass(frozen=True, slots=True)
class UploadLimit:
    """The largest file that can be uploaded, and what is said of a larger one."""

    n_bytes: int
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """One batch, the name of its file, how fast it goes, and the time at the database.

    `may_change`: the reader's key allows it; `can_retry`: so it does, and the batch has ended with
    failed requests that could run again.
    """

    batch: Batch
    name: str
    speed: BatchSpeed
    now: float
    may_change: bool
    can_retry: bool

    @property
    def state(self) -> str:
        """In words."""
        return "paused" if self.batch.is_paused else self.batch.state.replace("_", " ")

    @property
    def percent(self) -> float:
        """Of the requests that have their result."""
        return self._share(self.batch.completed + self.batch.failed)

    @property
    def completed_percent(self) -> float:
        """Of the requests that have an answer."""
        return self._share(self.batch.completed)

    @property
    def failed_percent(self) -> float:
        """Of the requests that failed."""
        return self._share(self.batch.failed)

    @property
    def said(self) -> str:
        """For those who listen: it changes with the state and every ten per cent."""
        return f"{self.name}: {self.state}, {int(self.percent) // _STEP * _STEP} %"

    @property
    def ended_at(self) -> float | None:
        """When the batch came to its end."""
        batch = self.batch
        ends = (batch.completed_at, batch.failed_at, batch.cancelled_at, batch.expired_at)
        return next((time for time in ends if time is not None), None)

    @property
    def took_s(self) -> float:
        """From its creation to its end, or to now."""
        return (self.ended_at or self.now) - self.batch.created_at

    @property
    def can_stop(self) -> bool:
        """Whether there is still something that the reader may cancel, pause or resume."""
        return self.may_change and self.batch.state in PAUSABLE

    @property
    def has_output(self) -> bool:
        """Whether there are answers to download."""
        return output_file(self.batch, OutputKind.OUTPUT) is not None

    @property
    def has_errors(self) -> bool:
        """Whether there are failures to download."""
        return output_file(self.batch, OutputKind.ERRORS) is not None

    def _share(self, n_requests: int) -> float:
        return round(100 * n_requests / self.batch.total, 2) if self.batch.total else 0.0


@dataclass(frozen=True, slots=True)
class ShownText:
    """A prompt's turn or an answer; `label` says whose it is."""

    label: str
    text: str

    @property
    def is_long(self) -> bool:
        """Whether it is folded."""
        return len(self.text) > FOLDED_FROM

    @property
    def preview(self) -> str:
        """Its beginning, on one line."""
        return " ".join(self.text[:_PREVIEW_CHARACTERS].split())

    @property
    def shown(self) -> str:
        """What is shown of it."""
        return self.text[:SHOWN_CHARACTERS]

    @property
    def n_hidden(self) -> int:
        """Characters that are not shown."""
        return max(0, len(self.text) - SHOWN_CHARACTERS)


@dataclass(frozen=True, slots=True)
class RecordLine:
    """One finished request."""

    record: RequestRecord

    @property
    def prompt(self) -> tuple[ShownText, ...]:
        """The turns; empty when the line was refused before it had a prompt."""
        return () if self.record.prompt is None else _turns(self.record.prompt)

    @property
    def answers(self) -> tuple[ShownText, ...]:
        """All choices."""
        generation = self.record.generation
        choices = () if generation is None else generation.choices
        if len(choices) == 1:
            return (ShownText("answer", choices[0].text),)
        return tuple(ShownText(f"answer {choice.index + 1}", choice.text) for choice in choices)


def _turns(prompt: Prompt) -> tuple[ShownText, ...]:
    if isinstance(prompt, ChatPrompt):
        return tuple(ShownText(turn.role, turn.content) for turn in prompt.messages)
    if isinstance(prompt, TextPrompt):
        return (ShownText("prompt", prompt.text),)
    return (ShownText("prompt, token ids", " ".join(map(str, prompt.token_ids))),)
