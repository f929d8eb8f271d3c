"""`nightshift submit`: store a batch for the workers and print its id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.context import load, open_database, open_registry
from cli.display import emit, emit_json
from cli.flag_groups import Given, with_flag_groups
from cli.model_choice import split_name
from cli.submission import InputOptions, submit_input
from models.errors import NotFoundError

if TYPE_CHECKING:
    from models.database import Database
    from models.model_key import ModelKey, Weights
    from models.settings import Settings
    from models.store.views import Batch


@with_flag_groups
def submit(
    context: typer.Context,
    input_path: options.InputPath,
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="Registered name.")],
    weights: options.WeightsKind = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="The same key and content make one batch, not two."),
    ] = None,
    priority: Annotated[int, typer.Option(metavar="N", help="Higher runs first.")] = 0,
    system: options.SystemText = None,
    completions: options.Completions = False,
    *,
    decoding: Given,
    as_json: options.AsJson = False,
) -> None:
    """Submit a file of requests and print the batch's id.

    Decoding flags are defaults: what a request says itself wins.
    """
    asked = InputOptions(path=input_path, defaults=decoding, system=system, completions=completions)
    settings = load(context)
    digest = asked.digest()
    with open_database(settings, create=True) as database:
        submitted = submit_input(
            database,
            settings,
            asked,
            model=_find_key(settings, database, model, weights),
            digest=digest,
            idempotency_key=idempotency_key,
            priority=priority,
        )
        ring_for(settings, database, submitted.batch)
    print_batch(submitted.batch, as_json=as_json)


def print_batch(batch: Batch, *, as_json: bool) -> None:
    """Print the id alone, or the whole batch as JSON."""
    from models.wire.output import batch_object

    if as_json:
        emit_json(batch_object(batch))
    else:
        emit(batch.id)


def ring_for(settings: Settings, database: Database, batch: Batch) -> None:
    """Tell waiting workers of the batch; without a broker they look by themselves.

    A broker that is away costs a warning: the workers' dispatchers ring again.
    """
    if settings.broker_url is None or batch.model is None or batch.is_terminal:
        return
    from worker.celery_app import create_app
    from worker.dispatcher import Dispatcher
    from worker.doorbell import CeleryDoorbell

    dispatcher = Dispatcher(
        database=database,
        doorbell=CeleryDoorbell(create_app(settings)),
        settings=settings,
        models=[batch.model],
    )
    dispatcher.dispatch()


def _find_key(
    settings: Settings, database: Database, name: str, weights: Weights | None
) -> ModelKey:
    """The model as the workers registered it in the database, or as this machine has it."""
    from models.store.workers import find_model

    name, weights = split_name(name, weights)
    try:
        return find_model(database, name, weights).key
    except NotFoundError as exc:
        try:
            return open_registry(settings).resolve(name, weights)
        except NotFoundError:
            raise exc from None
