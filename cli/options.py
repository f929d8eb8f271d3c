"""Options that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.model_key import Weights

BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="Id that `submit` printed.")]
InputPath = Annotated[
    Path,
    typer.Argument(
        metavar="INPUT",
        help="Requests: OpenAI batch JSONL, JSONL with prompt or messages, .txt with one prompt a "
        "line, .csv or .parquet with a prompt column.",
    ),
]
ModelName = Annotated[
    str, typer.Option("--model", metavar="NAME", help="Registered name, or a model's folder.")
]
WeightsKind = Annotated[
    Weights | None,
    typer.Option("--weights", help="Kind of weights; needed where a model has several."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for scripts.")]

Exceptions = Annotated[
    list[str] | None,
    typer.Option(
        "--except",
        metavar="PATTERN=WEIGHTS",
        help="Other weights for layers, such as lm_head=int8 or layers.0.*=bf16; may be repeated.",
    ),
]
Int4Group = Annotated[
    int | None,
    typer.Option("--int4-group", metavar="N", help="Inputs that share a scale: 128, 64 or 32."),
]
Int4ZeroPoints = Annotated[
    bool,
    typer.Option("--int4-zero-points", help="Each such group also says what means zero."),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        "--calibrate",
        metavar="FILE",
        help="Requests, as for `run`: int4 weights are rounded to answer such ones best.",
    ),
]
CalibrateAnswers = Annotated[
    Path | None,
    typer.Option(
        "--calibrate-answers", metavar="FILE", help="Answers to them, such as an output file."
    ),
]
IpexOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--ipex-option",
        metavar="KEY=VALUE",
        help="For --backend ipex: lowp, group_size, act_quant or activations, such as lowp=int8; "
        "may be repeated.",
    ),
]

SystemText = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", help="System message of chats that have none."),
]
Completions = Annotated[
    bool,
    typer.Option("--completions", help="Plain prompts are continued, without the chat template."),
]
