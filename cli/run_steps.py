"""The steps of `nightshift run`: model, submit, generate, write; each can be done again.

Every step finds what an earlier run left: the artifact in the registry, the batch by its
idempotency key, the results in the database. That is all there is to resuming.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cli.context import open_database, open_registry
from cli.display import say
from cli.model_choice import ensure_model
from cli.output_file import write_json_lines
from cli.progress import LOADING, ProgressDisplay, progress_display
from cli.status import raise_unless_completed
from cli.stopping import stop_on_signals
from cli.submission import InputOptions, submit_input
from cli.summary import SAMPLES, WORK, RunSummary, print_sample
from models.backend_name import BackendName
from models.model_key import ModelKey, Weights
from models.states import BatchState, ResultStatus

if TYPE_CHECKING:
    from models.database import Database
    from models.settings import Settings
    from models.store.views import Batch, Submitted
    from worker.jobs.engine_port import SpawnEngine
    from worker.llm.registry import Registry, RegistryEntry

INTERRUPTED = 130
_NEW_OBJECTS_BETWEEN_COLLECTIONS = 50_000  # rows of a page make many, and no cycles


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What one command line asks for."""

    input: InputOptions
    output: Path
    errors: Path
    model: str
    weights: Weights | None
    fresh: bool
    quiet: bool = False  # about where the answers are


@dataclass(frozen=True, slots=True)
class Generated:
    """The batch as it is after the work, and the seconds of that work."""

    batch: Batch
    load_s: float = 0.0  # waited for the model
    forward_s: float = 0.0  # in the model's forward


class Stopwatch:
    """Seconds of the stages of a run, which follow one another."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self.stages: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block."""
        started_s = time.monotonic()
        try:
            yield
        finally:
            self.stages[name] = time.monotonic() - started_s

    @property
    def total_s(self) -> float:
        """Seconds since the stopwatch was made."""
        return time.monotonic() - self._started_s


def execute(settings: Settings, plan: RunPlan) -> RunSummary:
    """Run to the end, or to the point where a signal stopped it (exit code 130)."""
    from worker.spawning import engine_spawner, started_early

    watch = Stopwatch()
    digest = plan.input.digest()  # a wrong path is told before anything slow begins
    registry = open_registry(settings)
    with watch.stage("model"):
        key = ensure_model(settings, plan.model, plan.weights)
    with (
        started_early(engine_spawner(settings, key)) as spawn,
        open_database(settings, create=True) as database,
    ):
        gc.freeze()  # what was imported stays: no need to look through it with every page of rows
        gc.set_threshold(_NEW_OBJECTS_BETWEEN_COLLECTIONS)
        with watch.stage("submit"):
            found = _find_or_submit(database, settings, registry, plan, key=key, digest=digest)
        return _finish(database, settings, plan, spawn, submitted=found, watch=watch)


def _find_or_submit(
    database: Database,
    settings: Settings,
    registry: Registry,
    plan: RunPlan,
    *,
    key: ModelKey,
    digest: str,
) -> Submitted:
    """The batch of this very run, from an earlier call or new."""
    base = _run_name(settings, registry.entry(key), plan, digest)
    newest = _newest_run(database, base)
    return submit_input(
        database,
        settings,
        plan.input,
        model=key,
        digest=digest,
        idempotency_key=f"{base}-{max(1, newest + plan.fresh)}",
    )


def _run_name(settings: Settings, entry: RegistryEntry, plan: RunPlan, digest: str) -> str:
    """What only calls of one run have: the same requests and output, computed in the same way."""
    sought = f"{digest} {entry.key} {entry.digest} {plan.output.resolve()}"
    if entry.backend is BackendName.IPEX:  # weights do not tell how they are multiplied
        lowp = settings.ipex_lowp or entry.recipe.get("lowp")
        sought += f" {lowp} {entry.recipe.get('act_quant')}"
    return f"run-{hashlib.sha256(sought.encode()).hexdigest()}"


def _newest_run(database: Database, base: str) -> int:
    """How often this was begun afresh: `--new` makes the next number of the same key."""
    from models.store.batches import find_batch

    number = 0
    while find_batch(database, f"{base}-{number + 1}") is not None:
        number += 1
    return number


def _finish(
    database: Database,
    settings: Settings,
    plan: RunPlan,
    spawn: SpawnEngine,
    *,
    submitted: Submitted,
    watch: Stopwatch,
) -> RunSummary:
    """Generate what is missing, write the files and sum up."""
    from cli.database_store import shown
    from models.store.results import batch_figures, database_time

    batch = submitted.batch
    kept = 0 if submitted.created else batch.completed + batch.failed
    began_at = database_time(database)
    if kept:
        say(f"{kept} of {batch.total} requests are kept from an earlier run")
    done = Generated(batch)
    if not batch.is_terminal:
        with watch.stage(WORK):
            done = _generate(database, settings, batch, spawn)
    batch = done.batch
    with watch.stage("write"):
        failed = _write(database, plan, batch)
    if not plan.quiet:
        _show(database, plan, batch, failed=failed)
    if batch.state != BatchState.COMPLETED:
        say("the same command with --new starts afresh")
    raise_unless_completed(shown(database, batch))
    figures = batch_figures(database, batch.id, began_at)
    return RunSummary(
        batch_id=batch.id,
        model=batch.known_model,
        figures=figures,
        kept=kept,
        seconds_load=done.load_s,
        seconds_forward=done.forward_s,
        seconds_total=watch.total_s,
        peak_rss_bytes=figures.peak_rss_bytes or 0,
        stage_seconds=watch.stages,
    )


def _generate(
    database: Database, settings: Settings, batch: Batch, spawn: SpawnEngine
) -> Generated:
    """Work on the batch until it ends; a signal leaves with exit code 130 and everything kept."""
    from worker.embedded import EmbeddedWorker

    worker = EmbeddedWorker(settings, database, batch.known_model, spawn=spawn)
    with stop_on_signals() as stop, progress_display() as display:
        _tell(display, batch, stage=LOADING)
        batch = worker.run_batch(
            batch.id,
            on_progress=lambda now: _tell(display, now, stage="generating"),
            should_stop=stop.is_set,
        )
    if not batch.is_terminal:
        done = batch.completed + batch.failed
        say(f"stopped: {done} of {batch.total} requests are kept; the same command goes on")
        raise typer.Exit(INTERRUPTED)
    return Generated(batch, worker.load_s, worker.forward_s)


def _tell(display: ProgressDisplay, batch: Batch, *, stage: str) -> None:
    display.update(
        done=batch.completed + batch.failed,
        total=batch.total,
        output_tokens=batch.output_tokens,
        stage=stage,
    )


def _write(database: Database, plan: RunPlan, batch: Batch) -> int:
    """Write both files whole; returns how many requests failed. No failures, no errors file."""
    from cli.database_store import batch_lines

    write_json_lines(plan.output, batch_lines(database, batch, ResultStatus.OK))
    if batch.failed:
        return write_json_lines(plan.errors, batch_lines(database, batch, ResultStatus.ERROR))
    plan.errors.unlink(missing_ok=True)  # of an earlier run, whose batch this replaces
    return 0


def _show(database: Database, plan: RunPlan, batch: Batch, *, failed: int) -> None:
    from models.store.results import stream_records

    answered = stream_records(database, batch.id, status=ResultStatus.OK)
    for record in itertools.islice(answered, SAMPLES):
        print_sample(record)
    say(f"{batch.completed} answers in {plan.output}")
    if failed:
        say(f"{failed} requests failed: see {plan.errors}")
