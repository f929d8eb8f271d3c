"""The figures of one `nightshift run`: as a table for people and as JSON for scripts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cli.display import format_bytes, format_seconds, print_pairs, say, shorten

if TYPE_CHECKING:
    from models.generation import Prompt
    from models.model_key import ModelKey
    from models.store.views import BatchFigures, RequestRecord

SAMPLES = 3
WORK = "work"  # the stage that waits for the model and generates
_WIDTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What one run did. Tokens, rates and seconds are of this run, without what was kept."""

    batch_id: str
    model: ModelKey
    figures: BatchFigures
    kept: int
    seconds_load: float  # waited for the model; it begins to load while the input is read
    seconds_forward: float
    seconds_total: float
    peak_rss_bytes: int
    stage_seconds: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """The contents of `--summary FILE`."""
        figures = self.figures
        return {
            "batch": self.batch_id,
            "model": self.model.name,
            "weights": str(self.model.weights),
            "requests": figures.total,
            "completed": figures.completed,
            "failed": figures.failed,
            "kept": self.kept,
            "generated": figures.generated,
            "prompt_tokens": figures.prompt_tokens,
            "cached_tokens": figures.cached_prompt_tokens,
            "output_tokens": figures.output_tokens,
            "tokens_per_second": figures.tokens_per_second,
            "seconds_generate": figures.seconds_generate,
            "seconds_forward": self.seconds_forward,
            "seconds_total": self.seconds_total,
            "stage_seconds": self._stages(),
            "request_seconds": self._request_seconds(),
            "peak_rss_bytes": self.peak_rss_bytes,
        }

    def print(self) -> None:
        """Show the table on stderr."""
        print_pairs(list(self._rows()), stream=sys.stderr)

    def _rows(self) -> Iterator[tuple[str, str]]:
        figures = self.figures
        kept = f", {self.kept} kept from an earlier run" if self.kept else ""
        yield "requests", f"{figures.total}{kept}"
        yield "failed", str(figures.failed)
        if figures.generated:
            tokens = (
                f"{figures.prompt_tokens} prompt, {figures.cached_prompt_tokens} of them cached"
            )
            yield "tokens", f"{tokens}; {figures.output_tokens} output"
            yield "tokens/s", f"{figures.tokens_per_second:.1f}"
        stages = ", ".join(
            f"{name} {format_seconds(seconds)}" for name, seconds in self._stages().items()
        )
        yield "seconds", f"{format_seconds(self.seconds_total)}: {stages}"
        if self.peak_rss_bytes:
            yield "memory", f"{format_bytes(self.peak_rss_bytes)} at most"
        yield "batch", f"{self.batch_id} with {self.model}"

    def _stages(self) -> dict[str, float]:
        """Seconds of the stages; they follow one another."""
        stages: dict[str, float] = {}
        for name, seconds in self.stage_seconds.items():
            if name == WORK:
                stages["load"] = self.seconds_load
                stages["generate"] = seconds - self.seconds_load
            else:
                stages[name] = seconds
        return stages

    def _request_seconds(self) -> dict[str, float]:
        """Sums over requests, which overlap in time."""
        figures = self.figures
        return {
            "tokenize": figures.tokenize_s,
            "queue": figures.queue_s,
            "prefill": figures.prefill_s,
            "decode": figures.decode_s,
        }


def print_sample(record: RequestRecord) -> None:
    """Show one prompt and its answer on stderr, shortened to a line each."""
    if record.generation is None or record.prompt is None:
        return
    say(f"[{record.custom_id}] {shorten(_prompt_text(record.prompt), _WIDTH)}")
    say(f"  → {shorten(record.generation.choices[0].text, _WIDTH)}")


def _prompt_text(prompt: Prompt) -> str:
    if prompt.kind == "chat":
        return prompt.messages[-1].content
    if prompt.kind == "text":
        return prompt.text
    return f"{len(prompt.token_ids)} token ids"
