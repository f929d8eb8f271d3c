"""`nightshift run`: submit, work and wait in one command, without any server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.context import load
from cli.flag_groups import Given, with_flag_groups
from cli.output_file import check_distinct, check_writable, write_json
from cli.submission import InputOptions


@with_flag_groups
def run(
    context: typer.Context,
    input_path: options.InputPath,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUTPUT", help="Answers as JSONL.")
    ],
    model: options.ModelName,
    weights: options.WeightsKind = None,
    summary: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the run's figures as JSON.")
    ] = None,
    errors: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Failed requests; default: OUTPUT's .errors.jsonl."),
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Start afresh although this was run before.")
    ] = False,
    system: options.SystemText = None,
    completions: options.Completions = False,
    *,
    decoding: Given,
    engine: Given,
) -> None:
    """Answer a file of requests on this machine; the same command again resumes.

    A model's folder is registered under its name and quantized once (int8 unless --weights says
    otherwise). OUTPUT gets one line per answered request, in the order of INPUT; requests that
    failed go to the errors file. Decoding flags are defaults: what a request says itself wins.
    """
    from cli.run_steps import RunPlan, execute

    settings = load(context, **engine)
    plan = RunPlan(
        input=InputOptions(
            path=input_path, defaults=decoding, system=system, completions=completions
        ),
        output=output,
        errors=errors or output.with_suffix(".errors.jsonl"),
        model=model,
        weights=weights,
        fresh=new,
    )
    written = {"--output": output, "--errors": plan.errors}
    if summary is not None:
        written["--summary"] = summary
    check_distinct({"INPUT": input_path, **written})
    for path in written.values():
        check_writable(path)
    figures = execute(settings, plan)
    figures.print()
    if summary is not None:
        write_json(summary, figures.as_dict())
