"""Options that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.errors import InputError
from models.model_key import Weights

if TYPE_CHECKING:
    from models.params import DecodingParams

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

MaxTokens = Annotated[int | None, typer.Option(metavar="N", help="Tokens of one answer at most.")]
MinTokens = Annotated[int | None, typer.Option(metavar="N", help="Tokens of one answer at least.")]
Temperature = Annotated[
    float | None, typer.Option(metavar="T", help="0: always the most likely token.")
]
TopP = Annotated[
    float | None, typer.Option(metavar="P", help="Sample from this share of probability.")
]
TopK = Annotated[int | None, typer.Option(metavar="K", help="Sample from the K likeliest tokens.")]
MinP = Annotated[
    float | None, typer.Option(metavar="P", help="Least probability, relative to the likeliest.")
]
RepetitionPenalty = Annotated[
    float | None, typer.Option(metavar="R", help="Above 1: discourage tokens already seen.")
]
Stop = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="End the answer before this text; may be repeated."),
]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Makes sampling repeatable.")]

Threads = Annotated[
    int | None, typer.Option(metavar="N", help="Compute threads; default: all usable cores.")
]
MaxSequences = Annotated[
    int | None, typer.Option(metavar="N", help="Sequences that the engine runs at once at most.")
]
StepTokens = Annotated[
    int | None, typer.Option(metavar="N", help="Tokens of one engine step at most.")
]
KvCacheBytes = Annotated[int | None, typer.Option(metavar="BYTES", help="Memory of the KV cache.")]


def given_parameters(**values: object) -> dict[str, object]:
    """The decoding parameters that were given on the command line, by their field names."""
    return {name: value for name, value in values.items() if value is not None}


def decoding_params(**values: object) -> DecodingParams:
    """The same, checked; raises InputError that names the flag."""
    from pydantic import ValidationError

    from models.params import DecodingParams

    try:
        return DecodingParams.model_validate(given_parameters(**values))
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-") if first["loc"] else "decoding flags"
        raise InputError(f"{flag} cannot be used: {first['msg']}") from exc
