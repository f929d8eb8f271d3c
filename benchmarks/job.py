"""What a runner is told and what it reports: the same for every engine.

A runner is a module started as `python -m MODULE JOB`, JOB being JSON, in its engine's environment;
its last line on stdout is its report. Standard library only.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from benchmarks.workloads import Request, read_workload

Setting = str | int | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One trial of one engine."""

    model: str
    workload: str  # file
    threads: int
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """A setting that is a number."""
        return int(self.settings[name])

    def text(self, name: str) -> str:
        """A setting that is text."""
        return str(self.settings[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a runner saw. The counts are per request, in the workload's order."""

    seconds: float  # from handing the requests over to having all answers
    load_seconds: float
    input_counts: Sequence[int]
    output_counts: Sequence[int]
    versions: Mapping[str, str]
    figures: Mapping[str, float] = field(default_factory=dict)  # what else the engine tells


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of each request as the engine counts them."""

    input: list[int]
    output: list[int]


class LoadedEngine(Protocol):
    """An engine that is ready to generate."""

    def generate(self, requests: Sequence[Request]) -> Counts:
        """Answer all requests, greedily and in full length."""
        ...

    def figures(self) -> Mapping[str, float]:
        """Other figures worth keeping."""
        ...


def read_job() -> Job:
    """The job in this process's only argument."""
    return Job(**json.loads(sys.argv[1]))


def measure(
    job: Job, load: Callable[[Job], LoadedEngine], packages: Sequence[str] = ()
) -> LoadedEngine:
    """Load, warm up, time the workload and print the report; returns the engine, to be closed.

    `packages` are those whose versions explain the figures.
    """
    workload = read_workload(Path(job.workload))
    started_s = time.perf_counter()
    engine = load(job)
    load_s = time.perf_counter() - started_s
    engine.generate(workload.warmup)
    started_s = time.perf_counter()
    counts = engine.generate(workload.requests)
    seconds = time.perf_counter() - started_s
    write_report(
        Report(
            seconds=seconds,
            load_seconds=load_s,
            input_counts=counts.input,
            output_counts=counts.output,
            versions={name: version(name) for name in packages},
            figures=engine.figures(),
        )
    )
    return engine


def write_report(report: Report) -> None:
    """Print the report as one line."""
    sys.stdout.write(json.dumps(asdict(report)) + "\n")
    sys.stdout.flush()
