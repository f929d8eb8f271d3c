"""`nightshift results`: the output lines of a batch, also while it still runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.context import load, open_database
from cli.display import emit, say
from cli.output_file import check_writable, write_json_lines
from models.states import ResultStatus
from models.wire.json_lines import json_line

if TYPE_CHECKING:
    from models.database import Database
    from models.store.views import Batch

POLL_S = 1.0


def results(
    context: typer.Context,
    batch: options.BatchId,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write a file instead.")
    ] = None,
    errors: Annotated[
        bool, typer.Option("--errors", help="Lines of the requests that failed instead.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the batch has ended.")
    ] = False,
) -> None:
    """Print one JSON line for each answered request, in the order of the input.

    With --follow each line comes when its request is finished, in the order of finishing.
    """
    from models.store.batches import get_batch

    if output is not None:
        check_writable(output)
    status = ResultStatus.ERROR if errors else ResultStatus.OK
    with open_database(load(context)) as database:
        found = get_batch(database, batch)
        read = follow_lines if follow else batch_lines
        lines = read(database, found, status)
        if output is not None:
            say(f"{write_json_lines(output, lines)} lines written to {output}")
            return
        for line in lines:
            emit(json_line(line))


def batch_lines(
    database: Database, batch: Batch, status: ResultStatus
) -> Iterator[dict[str, object]]:
    """The lines of all requests that ended with `status` so far, in input order."""
    from models.store.results import stream_records
    from models.wire.output import result_line

    for record in stream_records(database, batch.id, status=status):
        yield result_line(record, batch)


def follow_lines(
    database: Database, batch: Batch, status: ResultStatus
) -> Iterator[dict[str, object]]:
    """The same lines as they come, until the batch is terminal; every line once."""
    from models.store.batches import get_batch
    from models.store.results import records_except
    from models.wire.output import result_line

    seen: set[int] = set()
    while True:
        has_ended = get_batch(database, batch.id).is_terminal
        for record in records_except(database, batch.id, seen):
            seen.add(record.idx)
            if record.status == status:
                yield result_line(record, batch)
        if has_ended:
            return
        time.sleep(POLL_S)
