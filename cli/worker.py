"""`nightshift worker`: serve one model until told to stop, with one process or with several."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.context import load, open_database, show_log
from cli.flag_groups import Given, with_flag_groups
from cli.model_choice import ensure_model
from cli.stopping import stop_on_signals
from models.errors import SettingsError

if TYPE_CHECKING:
    from models.model_key import ModelKey
    from models.settings import Settings

AUTO = "auto"


@with_flag_groups
def worker(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Registered name, or a folder; else NIGHTSHIFT_MODEL."),
    ] = None,
    weights: options.WeightsKind = None,
    instances: Annotated[
        str,
        typer.Option(metavar="auto|N", help="Worker processes; auto: as many as `plan` shows."),
    ] = "1",
    until_eof: Annotated[
        bool, typer.Option("--until-eof", help="Drain when standard input ends, too.")
    ] = False,
    *,
    engine: Given,
) -> None:
    """Generate for the batches of one model: from the queue, or without a broker from the database.

    SIGTERM and Ctrl-C drain: no new work is taken, what runs is finished or handed back. With
    several instances each has cores and memory of its own, and is started again when it fails.
    """
    settings = load(context, **engine)
    count = parse_instances(instances)
    name = model or settings.model
    if name is None:
        raise SettingsError("no model is named: give --model NAME, or NIGHTSHIFT_MODEL")
    show_log(settings)
    key = ensure_model(settings, name, weights)
    if count != 1:
        code = _run_fleet(settings, key, count, until_eof=until_eof)
    elif settings.broker_url is None:
        code = _run_embedded(settings, key, until_eof=until_eof)
    else:
        code = _listen(settings, key, until_eof=until_eof)
    if code:
        raise typer.Exit(code)


def parse_instances(text: str) -> int | None:
    """A number of workers, or None for `auto`; raises SettingsError."""
    if text == AUTO:
        return None
    if not text.isdecimal() or not text.isascii() or int(text) < 1:
        raise SettingsError(f"--instances {text} cannot be used: give a number from 1 on, or auto")
    return int(text)


def _run_fleet(settings: Settings, key: ModelKey, count: int | None, *, until_eof: bool) -> int:
    from cli.fleet import build_fleet

    fleet = build_fleet(settings, key, count)
    with _wish_to_stop(settings, until_eof) as should_stop:
        return fleet.run(should_stop)


def _run_embedded(settings: Settings, key: ModelKey, *, until_eof: bool) -> int:
    from worker.embedded import EmbeddedWorker

    with (
        open_database(settings, create=True) as database,
        _wish_to_stop(settings, until_eof) as should_stop,
    ):
        return EmbeddedWorker(settings, database, key).run_forever(should_stop)


def _listen(settings: Settings, key: ModelKey, *, until_eof: bool) -> int:
    from worker.celery_app import run_celery_worker

    return run_celery_worker(settings, key, lifeline=sys.stdin.fileno() if until_eof else None)


@contextmanager
def _wish_to_stop(settings: Settings, until_eof: bool) -> Iterator[Callable[[], bool]]:
    """Whether a signal came, or standard input has ended where that counts.

    The end of the input is no signal: the first one that comes after it is still the first.
    """
    from worker.lifeline import watch_lifeline

    released = threading.Event()
    if until_eof:
        stdin, drain_timeout_s = sys.stdin.fileno(), settings.drain_timeout_s
        watch_lifeline(stdin, released.set, drain_timeout_s=drain_timeout_s)
    with stop_on_signals() as stop:
        yield lambda: stop.is_set() or released.is_set()
