"""`nightshift worker`: serve one model until told to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.context import load, open_database, open_registry, show_log
from cli.flag_groups import Given, with_flag_groups
from cli.model_choice import ensure_model
from cli.stopping import stop_on_signals
from models.errors import SettingsError

if TYPE_CHECKING:
    from models.model_key import ModelKey
    from models.settings import Settings


@with_flag_groups
def worker(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Registered name, or a folder; else NIGHTSHIFT_MODEL."),
    ] = None,
    weights: options.WeightsKind = None,
    *,
    engine: Given,
) -> None:
    """Generate for the batches of one model: from the queue, or without a broker from the database.

    SIGTERM and Ctrl-C drain: no new work is taken, what runs is finished or handed back.
    """
    settings = load(context, **engine)
    name = model or settings.model
    if name is None:
        raise SettingsError("no model is named: give --model NAME, or NIGHTSHIFT_MODEL")
    show_log(settings)
    key = ensure_model(open_registry(settings), name, weights)
    code = _run_embedded(settings, key) if settings.broker_url is None else _listen(settings, key)
    if code:
        raise typer.Exit(code)


def _run_embedded(settings: Settings, key: ModelKey) -> int:
    from worker.embedded import EmbeddedWorker

    with open_database(settings, create=True) as database, stop_on_signals() as stop:
        return EmbeddedWorker(settings, database, key).run_forever(stop.is_set)


def _listen(settings: Settings, key: ModelKey) -> int:
    from worker.celery_app import run_celery_worker

    return run_celery_worker(settings, key)
