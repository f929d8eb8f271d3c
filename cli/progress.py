"""The progress of a run on stderr: a bar in a terminal, a line now and then elsewhere.

It is told counts and knows nothing of workers or the database.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from cli.display import format_bytes, format_seconds, say
from worker.backends.machine import peak_rss_bytes

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_PERIOD_S = 5.0
LOADING = "loading"


class ProgressDisplay(Protocol):
    """Shows how far a run is; `update` may be called at any rate, inside the `with` block."""

    def update(self, *, done: int, total: int, output_tokens: int, stage: str) -> None:
        """Show the newest counts, which only grow; `stage` is `loading` until work begins."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last state on the screen."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """Counts at a time, to measure from."""

    at_s: float
    done: int
    output_tokens: int


class _Speed:
    """Tokens a second and seconds left, measured from the first update after loading.

    What was done before that update, by an earlier run too, is left out.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._first: _Mark | None = None

    def texts(self, *, done: int, total: int, output_tokens: int, stage: str) -> tuple[str, str]:
        """`120 tokens/s` and `about 8.0 s left`; empty while there is nothing to measure."""
        if stage == LOADING:
            return "", ""
        if self._first is None:
            self._first = _Mark(self._clock(), done, output_tokens)
        elapsed_s = self._clock() - self._first.at_s
        finished, tokens = done - self._first.done, output_tokens - self._first.output_tokens
        if elapsed_s <= 0 or finished <= 0:
            return "", ""
        left = f"about {format_seconds(elapsed_s / finished * (total - done))} left"
        return f"{tokens / elapsed_s:.0f} tokens/s", left if done < total else ""


def progress_display() -> ProgressDisplay:
    """The display that fits stderr."""
    return TerminalProgress() if sys.stderr.isatty() else PlainProgress()


class PlainProgress:
    """One line every few seconds and one at each change of stage, for logs."""

    def __init__(
        self, period_s: float = LINE_PERIOD_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._speed = _Speed(clock)
        self._period_s = period_s
        self._stage = ""
        self._told_s = float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def update(self, *, done: int, total: int, output_tokens: int, stage: str) -> None:
        """Tell the counts, unless that was done a moment ago."""
        speed = self._speed.texts(done=done, total=total, output_tokens=output_tokens, stage=stage)
        now_s = self._clock()
        if stage == self._stage and now_s - self._told_s < self._period_s:
            return
        self._stage, self._told_s = stage, now_s
        parts = [f"{stage}: {done} of {total} requests", *speed]
        say(", ".join(part for part in parts if part))


class TerminalProgress:
    """A bar with requests, tokens a second and the time left."""

    def __init__(self) -> None:
        self._speed = _Speed(time.monotonic)
        self._bar = _rich_bar()
        self._task = self._bar.add_task("starting", total=None, speed="", left="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def update(self, *, done: int, total: int, output_tokens: int, stage: str) -> None:
        """Move the bar."""
        speed, left = self._speed.texts(
            done=done, total=total, output_tokens=output_tokens, stage=stage
        )
        self._bar.update(
            self._task, description=stage, completed=done, total=total, speed=speed, left=left
        )


class ModelProgress:
    """How much of a model is done, and what it took; silent when nothing is to be done."""

    def __init__(self, title: str, unit: str = "tensors") -> None:
        self._title = title
        self._unit = unit
        self._is_terminal = sys.stderr.isatty()
        self._told = 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_terminal and self._told:
            say("")
        if self._told and error is None:
            took, memory = time.monotonic() - self._started, peak_rss_bytes()
            say(f"{self._title} took {format_seconds(took)} and {format_bytes(memory)} of memory")

    def update(self, done: int, total: int) -> None:
        """Tell the counts: on one line in a terminal, elsewhere at a quarter each."""
        if self._is_terminal:
            sys.stderr.write(f"\r{self._title}: {done} of {total} {self._unit}")
            sys.stderr.flush()
        elif done * 4 // total > self._told * 4 // total:
            say(f"{self._title}: {done} of {total} {self._unit}")
        self._told = done


def _rich_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("requests"),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
    )
