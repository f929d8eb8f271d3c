"""`nightshift evaluate`: which weights and which backend are the best balance for a use."""

from __future__ import annotations

import tempfile
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
        str, typer.Option(metavar="LIST", help="WEIGHTS or WEIGHTS@BACKEND, with commas between.")
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
    is quantized into the registry and stays there; answers and batches of the trials do not.
    """
    from cli.answers import read_expected
    from cli.candidates import Candidate, ensure_candidate, parse_candidates
    from cli.evaluation import EvaluationPlan
    from cli.evaluation import evaluate as measure
    from cli.evaluation_report import as_dict, check_plot, draw, print_evaluations
    from cli.submission import InputOptions

    if prompts is None and (text is None or expected is not None):
        raise InputError("there is nothing to measure: give --prompts FILE, --text FILE, or both")
    settings = load(context, **engine)
    chosen = parse_candidates(candidates)
    compared = Candidate.parse(reference) if reference else chosen[0]
    if compared not in chosen:
        raise InputError(f"--reference {reference} is none of --candidates {candidates}")
    written = {"--report": report, "--plot": plot}
    files = {name: path for name, path in written.items() if path is not None}
    check_distinct(files)
    for path in files.values():
        check_writable(path)
    if plot is not None:
        check_plot(plot)
    plan = EvaluationPlan(
        candidates=chosen,
        reference=compared,
        prompts=None if prompts is None else InputOptions(path=prompts, defaults=decoding),
        expected={} if expected is None else read_expected(expected),
        text=None if text is None else read_text(text),
        trials=trials,
    )
    keys = {each: ensure_candidate(settings, model, each) for each in chosen}
    with tempfile.TemporaryDirectory(prefix="nightshift-evaluate-") as folder:
        found = measure(settings, plan, keys, Path(folder))
    figures = {"model": keys[chosen[0]].name, "reference": str(compared),
               "candidates": [as_dict(each) for each in found]}  # fmt: skip
    if report is not None:
        write_json(report, figures)
    if plot is not None:
        draw(found, plot, keys[chosen[0]].name)
    if as_json:
        emit_json(figures)
    else:
        print_evaluations(found)


def read_text(path: Path) -> str:
    """A UTF-8 text file; raises InputError for one that cannot be read or is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{path} cannot be read as UTF-8 text: {exc}") from exc
