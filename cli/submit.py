"""`nightshift submit`: store a batch for the workers and print its id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.display import emit, emit_json
from cli.flag_groups import Given, with_flag_groups
from cli.job_store import SubmitOrder, open_job_store
from cli.submission import InputOptions

if TYPE_CHECKING:
    from nightshift import Batch


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
    asked.check_readable()
    order = SubmitOrder(
        model=model, weights=weights, idempotency_key=idempotency_key, priority=priority
    )
    with open_job_store(context, create=True) as store:
        batch = store.submit(asked, order)
    print_batch(batch, as_json=as_json)


def print_batch(batch: Batch, *, as_json: bool) -> None:
    """Print the id alone, or the whole batch as JSON."""
    if as_json:
        emit_json(batch)
    else:
        emit(batch["id"])
