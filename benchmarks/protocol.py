"""`python -m benchmarks.protocol [DATABASE_URL]`: what a request costs around its generation.

Fills a database with 10,000, 100,000 and 1,000,000 requests, of which nine tenths are done, and
measures every step of the protocol at each size. Without a URL it makes an SQLite database of its
own; the schema of another one must be there and empty. Prints a Markdown table of all runs so far;
the results file gets one run more. `--requests 10000,20000` takes other sizes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import Machine, current_commit, describe_machine, load_average
from benchmarks.prepare import PROJECT
from benchmarks.protocol_costs import Cost, Costs
from benchmarks.protocol_fill import MODEL, WORKER_ID, finish_chunks, queue_batch
from benchmarks.results import Document as EngineResults
from benchmarks.results import read_document
from models.database import Database, connect_database, upgrade
from models.generation import Frozen
from models.settings import Settings
from models.store.views import Worker
from models.store.workers import register_worker

RESULTS_FOLDER = PROJECT / "benchmarks" / "results"
SIZES = (10_000, 100_000, 1_000_000)
BATCH_REQUESTS = 50_000
DONE_SHARE = 0.9
# What a step costs is told of one of these, in this unit.
UNITS: Mapping[str, tuple[str, float]] = {
    "submit": ("µs a request", 1),
    "plan": ("µs a request", 1),
    "claim": ("µs a chunk", 1),
    "read requests": ("µs a chunk", 1),
    "renew": ("µs a call", 1),
    "commit of 32": ("µs a request", 1 / 32),
    "commit of 1": ("µs a request", 1),
    "finalize": ("µs a request", 1),
    "sweep": ("ms a call", 1e-3),
    "dispatch": ("ms a call", 1e-3),
    "dispatch, window full": ("ms a call", 1e-3),
    "status": ("ms a call", 1e-3),
    "list": ("ms a call", 1e-3),
}


class Run(Frozen):
    """All sizes once."""

    commit: str
    started: datetime
    load_average: float  # before it began: what else was running
    costs: Mapping[int, Mapping[str, Cost]]  # by the number of requests in the database


class Document(Frozen):
    """All runs on one kind of database."""

    format: int = 1
    database: str
    machine: Machine
    runs: tuple[Run, ...] = ()

    def median_us(self, step: str, n_requests: int) -> float:
        """The median over the runs."""
        return statistics.median(run.costs[n_requests][step].median_us for run in self.runs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run once more, and print what all runs so far say."""
    options = _parser().parse_args(arguments)
    sizes = tuple(int(size) for size in options.requests.split(","))
    with tempfile.TemporaryDirectory() as name:
        url = options.database_url or f"sqlite:///{Path(name) / 'nightshift.db'}"
        opened = connect_database(url) if options.database_url else upgrade(url)
        with opened as database:
            path = options.output or RESULTS_FOLDER / "protocol" / f"{database.dialect}.json"
            before = open_document(path, database.dialect)
            run = measure(database, sizes)
    document = before.model_copy(update={"runs": (*before.runs, run)})
    path.write_text(document.model_dump_json(indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{render(document)}\n\n{render_shares(document, read_engines())}\n")


def open_document(path: Path, dialect: str) -> Document:
    """The document at `path` to go on with, or a new one."""
    if path.is_file():
        return Document.model_validate_json(path.read_bytes())
    return Document(database=dialect, machine=describe_machine())


def measure(database: Database, sizes: Sequence[int]) -> Run:
    """Fill the empty database step by step and measure at each size."""
    load, started = load_average(), datetime.now(UTC)
    settings = Settings()
    register_worker(database, Worker(id=WORKER_ID, model=MODEL, host="localhost", pid=1))
    costs: dict[int, Mapping[str, Cost]] = {}
    n_stored, n_batches, batch_id = 0, 0, ""
    for size in sizes:
        while n_stored < size:
            n_requests = min(BATCH_REQUESTS, size - n_stored)
            batch_id = queue_batch(database, n_batches, n_requests).id
            finish_chunks(database, batch_id, DONE_SHARE)
            n_stored, n_batches = n_stored + n_requests, n_batches + 1
            sys.stderr.write(f"{n_stored} requests\n")
        at_size = Costs(database, settings)
        at_size.measure(batch_id)
        costs[size] = at_size.summary()
    return Run(commit=current_commit(), started=started, load_average=load, costs=costs)


def render(document: Document) -> str:
    """The table of the medians of all runs."""
    sizes = sorted(document.runs[0].costs)
    header = ["step", "unit", *(f"{size:,}" for size in sizes), "last ÷ first"]
    rows = [header, ["---"] * len(header), *_rows(document, sizes)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def chunk_seconds(document: Document, n_requests: int, generation_s: float) -> float:
    """Claim, renewals and commits of one chunk of 128 requests that is generated so long.

    What has finished is committed every second, or as soon as a micro-batch has come together.
    """
    settings = Settings()
    size, micro = settings.chunk_requests, settings.micro_batch_requests
    cost = {step: document.median_us(step, n_requests) / 1e6 for step in UNITS}
    each = max(0.0, (cost["commit of 32"] - cost["commit of 1"]) / 31)
    n_commits = max(size / micro, min(size, generation_s / settings.micro_batch_s))
    commits = n_commits * (cost["commit of 1"] - each) + size * each
    renewals = generation_s / settings.renew_period_s * cost["renew"]
    return cost["claim"] + cost["read requests"] + commits + renewals


def render_shares(document: Document, engines: EngineResults) -> str:
    """The protocol's share of generating, for a usual model and for the quickest there is."""
    n_requests = max(document.runs[0].costs)
    rows = [["work", "generating a chunk", "protocol", "share"], ["---"] * 4]
    for name, generation_s in _generations(engines):
        seconds = chunk_seconds(document, n_requests, generation_s)
        share = seconds / generation_s
        rows.append([name, f"{generation_s:.3g} s", f"{1e3 * seconds:.1f} ms", f"{share:.2%}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def read_engines() -> EngineResults:
    """The seconds that models take, on the machine of these results."""
    return read_document(RESULTS_FOLDER / "epyc-zen4-2-cores.json")


def _generations(engines: EngineResults) -> Iterator[tuple[str, float]]:
    """Seconds that a chunk takes in the model, and around it in the worst case."""
    size = Settings().chunk_requests
    usual = engines.median_seconds("nightshift-int8", "A")
    short = engines.valid("nightshift-run", "short")
    assert usual is not None
    forward = statistics.median(trial.figures["seconds_forward"] for trial in short)
    yield "A: 1.1B, int8, 77 tokens out", size * usual / 96
    yield "short: demo model, 4 tokens out, the model alone", size * forward / 10_000


def _rows(document: Document, sizes: Sequence[int]) -> Iterator[list[str]]:
    for step, (unit, factor) in UNITS.items():
        us = [document.median_us(step, size) for size in sizes]
        shown = (_short(value * factor) for value in us)
        yield [step, unit, *shown, f"{us[-1] / us[0]:.2f}"]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.protocol", description=__doc__)
    parser.add_argument("database_url", nargs="?")
    parser.add_argument("--requests", default=",".join(map(str, SIZES)), help="sizes, in turn")
    parser.add_argument("--output", type=Path, help="results file, continued when it exists")
    return parser


if __name__ == "__main__":
    main()
