"""The document that a benchmark run writes: what was measured on what, every trial kept raw."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from benchmarks.job import Setting
from benchmarks.limits import Limits
from benchmarks.machine import Machine
from models.generation import Frozen


class Trial(Frozen):
    """One run of one engine on one work."""

    engine: str
    work: str
    number: int  # from 1; equal numbers ran one after the other
    void: str | None  # why it does not count
    seconds: float | None = None  # with a void trial, as far as it got
    load_seconds: float | None = None
    input_tokens: int
    output_tokens: int
    peak_rss_bytes: int
    settings: Mapping[str, Setting]
    versions: Mapping[str, str] = {}
    figures: Mapping[str, float] = {}
    commit: str
    started: datetime
    load_average: float  # before it began: what else was running
    other_cpu_seconds: float  # CPU time of other processes meanwhile, loading included


class Document(Frozen):
    """All trials of one file."""

    format: int = 1
    shape: str
    machine: Machine
    versions: Mapping[str, str]
    limits: tuple[Limits, ...] = ()
    trials: tuple[Trial, ...] = ()

    def with_limits(self, limits: Limits) -> Document:
        """A copy with one more measurement of the limits."""
        return self.model_copy(update={"limits": (*self.limits, limits)})

    def with_trial(self, trial: Trial) -> Document:
        """A copy with one more trial."""
        return self.model_copy(update={"trials": (*self.trials, trial)})

    def valid(self, engine: str, work: str) -> list[Trial]:
        """The trials of a row that count."""
        return [
            trial
            for trial in self.trials
            if (trial.engine, trial.work) == (engine, work) and trial.void is None
        ]

    def has(self, engine: str, work: str, number: int) -> bool:
        """Whether this trial was run and counts."""
        return any(trial.number == number for trial in self.valid(engine, work))

    def median_seconds(self, engine: str, work: str) -> float | None:
        """Of the trials that count; None without any."""
        seconds = [t.seconds for t in self.valid(engine, work) if t.seconds is not None]
        return statistics.median(seconds) if seconds else None


def read_document(path: Path) -> Document:
    """Read a results file. Raises ValueError when it is none."""
    return Document.model_validate_json(path.read_bytes())


def write_document(document: Document, path: Path) -> None:
    """Write it whole or not at all, so that a run that is cut short can go on."""
    partial = path.with_suffix(".partial")
    partial.write_text(document.model_dump_json(indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
