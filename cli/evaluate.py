"""`nightshift evaluate`: which weights and which backend are the best balance for a use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.context import load
from cli.display import emit_json
from cli.flag_groups import Given, with_flag_groups
from cli.output_file import check_distinct, check_writable, write_json
from models.errors import InputError

ALL_WEIGHTS = "fp32,bf16,int8,int4"


@with_flag_groups
def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="NAME", help="Registered name, or a folder.")],
    candidates: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="WEIGHTS, WEIGHTS@BACKEND, WEIGHTS@ipex:LOWP; commas between.",
        ),
    ] = ALL_WEIGHTS,
    reference: Annotated[
        str | None, typer.Option(metavar="ONE", help="Agreement is with it; default: the first.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Requests to answer, as for `run`.")
    ] = None,
    expected: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='Lines of {"custom_id": …, "answer": …} for --prompts.'),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text whose perplexity is measured.")
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, metavar="N", help="How often each answers the prompts.")
    ] = 3,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the figures as JSON.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw speed against quality: .png, .svg.")
    ] = None,
    *,
    decoding: Given,
    engine: Given,
    as_json: options.AsJson = False,
) -> None:
    """Compare kinds of weights and backends of one model: speed, memory, and how much is lost.

    Perplexity and agreement (how often the likeliest next token is that of the reference) are
    measured on --text, else on the expected answers after their prompts. What a candidate needs
    is quantized into the registry and stays there; answers and batches of the trials do not, nor
    weights that ipex:int8 needs apart.
    """
    from cli.candidates import Candidate, parse_candidates
    from cli.evaluation import evaluate as measure
    from cli.evaluation import read_plan
    from cli.evaluation_report import check_plot, draw, print_evaluations, summary

    settings = load(context, **engine)
    chosen = parse_candidates(candidates)
    compared = Candidate.parse(reference) if reference else chosen[0]
    if compared not in chosen:
        raise InputError(f"--reference {reference} is none of --candidates {candidates}")
    plan = read_plan(
        chosen,
        compared,
        prompts=prompts,
        expected=expected,
        text=text,
        trials=trials,
        decoding=decoding,
    )
    written = {"--report": report, "--plot": plot}
    files = {name: path for name, path in written.items() if path is not None}
    check_distinct(files)
    for path in files.values():
        check_writable(path)
    if plot is not None:
        check_plot(plot)
    found = measure(settings, model, plan)
    figures = summary(found, compared)
    if report is not None:
        write_json(report, figures)
    if plot is not None:
        draw(found, plot, found[0].key.name)
    if as_json:
        emit_json(figures)
    else:
        print_evaluations(found)
