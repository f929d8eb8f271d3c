"""`nightshift model quantize`: other weights of a model, and what they lose beside the full one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.context import load, open_registry
from cli.display import emit_json
from cli.flag_groups import with_flag_groups
from cli.model_choice import requantize
from cli.models import For, RegisteredName, as_dict, report
from cli.rounding import Rounding
from cli.submission import GREEDY
from models.backend_name import BackendName
from models.model_key import ModelKey, Weights

if TYPE_CHECKING:
    from cli.evaluation import EvaluationPlan
    from models.settings import Settings

TRIALS = 3


@with_flag_groups
def quantize(
    context: typer.Context,
    name: RegisteredName,
    weights: Annotated[Weights, typer.Option("--weights", help="Kind of weights to make.")],
    backend: For = None,
    *,
    rounding: Mapping[str, Any],
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Requests that measure speed and memory.")
    ] = None,
    expected: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Their answers, as for `evaluate`.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text whose perplexity is measured.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Make another kind of weights of a registered model, from the same source.

    With --prompts, --text or both it is then measured beside the full model: bf16, or fp32 where
    bf16 itself was made, of the same backend, and of the native one where that has none.
    `nightshift evaluate` compares more.
    """
    settings = load(context, backend=backend)
    plan = None
    if any(file is not None for file in (prompts, expected, text)):
        plan = _beside_the_full_model(settings, weights, prompts, expected, text)
    asked = Rounding(**rounding)
    entry = requantize(
        open_registry(settings),
        settings,
        ModelKey(name, weights),
        asked.layers(weights),
        asked.ipex(weights),
    )
    if plan is None:
        report(entry, as_json=as_json)
        return
    from cli.evaluation import evaluate
    from cli.evaluation_report import print_evaluations, summary

    found = evaluate(settings, name, plan)
    if as_json:
        emit_json({**as_dict(entry), "evaluation": summary(found, plan.reference)})
    else:
        print_evaluations(found)


def _beside_the_full_model(
    settings: Settings,
    weights: Weights,
    prompts: Path | None,
    expected: Path | None,
    text: Path | None,
) -> EvaluationPlan:
    from cli.candidates import Candidate
    from cli.evaluation import read_plan

    full = Weights.FP32 if weights is Weights.BF16 else Weights.BF16
    has_full = settings.backend is not BackendName.IPEX
    reference = Candidate(full, settings.backend if has_full else BackendName.NATIVE)
    made = Candidate(weights, settings.backend)
    return read_plan(
        [reference, made],
        reference,
        prompts=prompts,
        expected=expected,
        text=text,
        trials=TRIALS,
        decoding=GREEDY,
    )
