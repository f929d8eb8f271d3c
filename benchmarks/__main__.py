"""`python -m benchmarks`: prepare, measure the limits, run trials in turns, print the results.

Stdout gets tables and, as the last line, the whole document as JSON. The results file is written
after every trial: the same command goes on where it was cut short.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engines import EngineSpec, choose_engines, choose_works
from benchmarks.job import Job
from benchmarks.limits import build_limits, measure_limits
from benchmarks.machine import current_commit, describe_machine, own_versions
from benchmarks.prepare import PROJECT, Workshop, make_workload
from benchmarks.results import Document, read_document, write_document
from benchmarks.shapes import SHAPES
from benchmarks.tables import render
from benchmarks.trials import Plan, run_trial
from worker.backends.machine import usable_cores

WORK_FOLDER = PROJECT / "benchmarks" / "work"
RESULTS_FOLDER = PROJECT / "benchmarks" / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One engine on one work."""

    spec: EngineSpec
    work: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """One round: every row once."""

    number: int
    commit: str
    threads: int
    output: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 when a trial was void."""
    options = _parser().parse_args(arguments)
    try:
        engines, works = choose_engines(options.engines), choose_works(options.works)
    except ValueError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    rows = [Row(spec, work) for work in works for spec in engines if work in spec.works]
    workshop = Workshop(WORK_FOLDER, SHAPES[options.shape])
    threads = options.threads or usable_cores()
    prepare(workshop, rows)
    if options.prepare:
        return 0
    commit = current_commit()
    path: Path = options.output or RESULTS_FOLDER / f"{commit}-{options.shape}.json"
    document = _open_document(path, options.shape)
    for number in range(1, options.trials + 1):
        run = RoundPlan(number=number, commit=commit, threads=threads, output=path)
        document = run_round(workshop, rows, document, run)
    sys.stdout.write(f"{render(document)}\n\n{document.model_dump_json()}\n")
    return 1 if any(trial.void for trial in document.trials) else 0


def prepare(workshop: Workshop, rows: Sequence[Row]) -> None:
    """Make the environments and models of all rows."""
    for spec in {row.spec.name: row.spec for row in rows}.values():
        _say(f"preparing {spec.name}")
        workshop.python(spec)
        workshop.model(spec.model)


def run_round(
    workshop: Workshop, rows: Sequence[Row], document: Document, plan: RoundPlan
) -> Document:
    """Run the trials of one number that are not in the document, one after the other."""
    missing = [row for row in rows if not document.has(row.spec.name, row.work, plan.number)]
    if not missing:
        return document
    workshop.root.mkdir(parents=True, exist_ok=True)
    document = document.with_limits(measure_limits(build_limits(workshop.root)))
    for trial_plan in _trial_plans(workshop, missing, plan):
        _say(f"trial {plan.number}: {trial_plan.workload.name} with {trial_plan.spec.name}")
        trial = run_trial(trial_plan)
        outcome = trial.void or f"{trial.seconds:.1f} s"
        _say(f"  {outcome} (other programs: {trial.other_cpu_seconds:.0f} CPU seconds)")
        document = document.with_trial(trial)
        write_document(document, plan.output)
    return document


def _trial_plans(workshop: Workshop, rows: Sequence[Row], plan: RoundPlan) -> Iterator[Plan]:
    logs = workshop.root / "logs"
    logs.mkdir(exist_ok=True)
    for row in rows:
        workload = make_workload(row.work)
        job = Job(
            model=str(workshop.model(row.spec.model)),
            workload=str(workshop.workload_file(workload)),
            threads=plan.threads,
            settings=row.spec.settings_for(workload),
        )
        yield Plan(
            spec=row.spec,
            workload=workload,
            number=plan.number,
            commit=plan.commit,
            python=workshop.python(row.spec),
            job=job,
            log=logs / f"{workshop.shape.name}-{row.work}-{row.spec.name}-{plan.number}.log",
        )


def _open_document(path: Path, shape: str) -> Document:
    """The document at `path` to go on with, or a new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        return read_document(path)
    return Document(shape=shape, machine=describe_machine(), versions=own_versions())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--engines", default="ours", help="names, or ours, peers, all; comma-separated")
    add("--works", default="all", help="A, B, long, single, short or all; comma-separated")
    add("--trials", type=int, default=3, help="rounds in which every row runs once")
    add("--shape", default="1.1b", choices=sorted(SHAPES), help="of the model; smoke: a tiny one")
    add("--output", type=Path, help="results file, continued when it exists; default: by commit")
    add("--threads", type=int, help="compute threads of every engine; default: all cores")
    add("--prepare", action="store_true", help="make environments and models, measure nothing")
    return parser


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
