"""`nightshift results`: the output lines of a batch, also while it still runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.display import emit, say
from cli.job_store import open_job_store
from cli.output_file import check_writable, write_json_lines
from models.states import ResultStatus
from models.wire.json_lines import json_line


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
    if output is not None:
        check_writable(output)
    status = ResultStatus.ERROR if errors else ResultStatus.OK
    with open_job_store(context) as store:
        found = store.batch(batch)
        lines = store.follow(found, status) if follow else store.lines(found, status)
        if output is not None:
            say(f"{write_json_lines(output, lines)} lines written to {output}")
            return
        for line in lines:
            emit(json_line(line))
