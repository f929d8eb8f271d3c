"""`nightshift canary`: whether live workers still answer the same requests as well and as fast."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.context import load, open_database
from cli.display import emit, emit_json, say
from cli.job_store import JobStore, SubmitOrder
from cli.status import has_ended, raise_unless_completed
from cli.stopping import interrupted_by_signals
from cli.submission import GREEDY, InputOptions
from models.errors import (
    BatchNotCompleted,
    InputError,
    NightshiftError,
    StateError,
    StorageFull,
    UnavailableError,
)
from models.model_key import ModelKey, Weights
from models.states import ResultStatus

if TYPE_CHECKING:
    from models.database import Database
    from nightshift import Batch, Json


def canary(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="NAME", help="Registered name.")],
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="Requests, as for `submit`.")],
    expected: Annotated[
        Path, typer.Option(metavar="FILE", help='Lines of {"custom_id": …, "answer": …}.')
    ],
    weights: options.WeightsKind = None,
    every: Annotated[
        float | None,
        typer.Option(min=1.0, metavar="SECONDS", help="Again and again, until it is stopped."),
    ] = None,
    priority: Annotated[int, typer.Option(metavar="N", help="Higher runs first.")] = 0,
    timeout: Annotated[
        float, typer.Option(min=1.0, metavar="SECONDS", help="Cancel one that takes longer.")
    ] = 3600.0,
    as_json: options.AsJson = False,
) -> None:
    """Let live workers answer known requests, and keep how many answers were exact and how fast.

    `nightshift status`, GET /v1/canaries and GET /metrics show the newest of each model. With
    --every one that fails is told and the next one tried; without, the exit code tells. Stopped by
    Ctrl-C or SIGTERM, it cancels the batch that it waits for.
    """
    from cli.answers import read_expected
    from cli.database_store import DatabaseStore

    settings = load(context)
    asked = InputOptions(path=prompts, defaults=GREEDY)
    asked.check_readable()
    wanted = read_expected(expected)
    order = SubmitOrder(model=model, weights=weights, idempotency_key=None, priority=priority)
    with interrupted_by_signals(), open_database(settings) as database:
        store = DatabaseStore(settings, database)
        while True:
            started = time.monotonic()
            try:
                figures = _measure(store, database, asked, order, wanted, timeout)
                _print(figures, as_json=as_json)
            except (BatchNotCompleted, StorageFull, UnavailableError) as exc:
                if every is None:
                    raise
                say(f"this canary failed: {exc}")
            if every is None:
                return
            time.sleep(max(0.0, every - (time.monotonic() - started)))


def _measure(
    store: JobStore,
    database: Database,
    asked: InputOptions,
    order: SubmitOrder,
    expected: Mapping[str, str],
    timeout_s: float,
) -> Json:
    """One batch through the queue; raises BatchNotCompleted, InputError, and as submitting."""
    from cli.answers import count_exact
    from models.store.canaries import record_canary

    key = f"canary-{uuid.uuid4().hex}"  # by which an interruption finds it wherever it came
    try:
        submitted = store.submit(asked, replace(order, idempotency_key=key))
        batch = store.await_end(submitted["id"], timeout_s)
    except KeyboardInterrupt:
        _cancel_interrupted(store, database, key)
        raise
    if not has_ended(batch):
        batch = _cancelled_or_ended(store, batch, timeout_s)
    raise_unless_completed(batch)
    answers = list(store.lines(batch, ResultStatus.OK))
    _check_asked(expected, [*answers, *store.lines(batch, ResultStatus.ERROR)])
    n_exact = count_exact(answers, expected)
    model = ModelKey(str(batch["model"]), Weights(batch["nightshift"]["weights"]))
    speed = batch["nightshift"]["tokens_per_second"]
    record_canary(
        database,
        model,
        n_expected=len(expected),
        n_exact=n_exact,
        output_tokens_per_second=speed,
    )
    return {
        "model": str(model),
        "batch": batch["id"],
        "expected": len(expected),
        "exact": n_exact,
        "tokens_per_second": speed,
    }


def _cancelled_or_ended(store: JobStore, batch: Batch, timeout_s: float) -> Batch:
    """Give a batch up; one that ended at this moment counts. Raises BatchNotCompleted."""
    try:
        store.cancel(batch["id"])
    except StateError:
        return store.batch(batch["id"])
    raise BatchNotCompleted(
        f"batch {batch['id']} was not completed within {timeout_s:g} s and is cancelled: see "
        "that a worker of its model runs, or give a longer --timeout"
    )


def _cancel_interrupted(store: JobStore, database: Database, key: str) -> None:
    """Let no worker go on for nobody; an error is told, and it stays an interruption."""
    from models.store.batches import find_batch

    try:
        if (batch := find_batch(database, key)) is not None:
            store.cancel(batch.id)
            say(f"batch {batch.id} is cancelled")
    except StateError:
        return  # it has ended
    except NightshiftError as exc:
        say(f"this canary's batch is not cancelled: {exc}")


def _check_asked(expected: Mapping[str, str], lines: Iterable[Mapping[str, object]]) -> None:
    """Raise InputError when an answer is expected that nobody was asked for: it never comes."""
    missing = expected.keys() - {str(line["custom_id"]) for line in lines}
    if missing:
        raise InputError(
            f"{len(missing)} of {len(expected)} expected answers are of no request, such as that "
            f"of {min(missing)}: give --prompts and --expected that belong together"
        )


def _print(figures: Json, *, as_json: bool) -> None:
    if as_json:
        emit_json(figures, indent=None)
        return
    speed = figures["tokens_per_second"]
    told = "" if speed is None else f", {speed:.1f} tokens/s"
    emit(f"{figures['model']}: {figures['exact']} of {figures['expected']} exact{told}")
