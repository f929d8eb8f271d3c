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

SystemText = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", help="System message of chats that have none."),
]
Completions = Annotated[
    bool,
    typer.Option("--completions", help="Plain prompts are continued, without the chat template."),
]
