"""Groups of flags that several commands take: declared once, handed over as one mapping.

A command with a parameter `decoding`, `engine` or `rounding` gets the flags of that group in its
place.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from models.backend_name import BackendName
from models.errors import InputError

if TYPE_CHECKING:
    from models.params import DecodingParams

Given = Mapping[str, object]  # the flags of one group that were given, by parameter name


def _option(text: str, metavar: str) -> Any:
    return typer.Option(help=text, metavar=metavar)


def _decoding() -> dict[str, Any]:
    """Flags named as the fields of DecodingParams."""
    return {
        "max_tokens": Annotated[int | None, _option("Tokens of one answer at most.", "N")],
        "min_tokens": Annotated[int | None, _option("Tokens of one answer at least.", "N")],
        "temperature": Annotated[float | None, _option("0: always the likeliest token.", "T")],
        "top_p": Annotated[float | None, _option("Sample from this share of probability.", "P")],
        "top_k": Annotated[int | None, _option("Sample from the K likeliest tokens.", "K")],
        "min_p": Annotated[
            float | None, _option("Least probability, relative to the likeliest token's.", "P")
        ],
        "repetition_penalty": Annotated[
            float | None, _option("Above 1: discourage tokens already seen.", "R")
        ],
        "stop": Annotated[
            list[str] | None, _option("End the answer before this text; may be repeated.", "TEXT")
        ],
        "seed": Annotated[int | None, _option("Makes sampling repeatable.", "N")],
    }


def _engine() -> dict[str, Any]:
    """Flags named as settings."""
    return {
        "backend": Annotated[
            BackendName | None, typer.Option(help="What computes the model; default: native.")
        ],
        "threads": Annotated[
            int | None, _option("Compute threads; default: all cores, one for tiny models.", "N")
        ],
        "max_sequences": Annotated[
            int | None, _option("Sequences that the engine runs at once at most.", "N")
        ],
        "step_tokens": Annotated[int | None, _option("Tokens of one engine step at most.", "N")],
        "context_tokens": Annotated[
            int | None, _option("Prompt and answer at most; default: what the model can.", "N")
        ],
        "kv_cache_bytes": Annotated[
            int | None, _option("Memory of the KV cache; default: what is free.", "BYTES")
        ],
    }


def _rounding() -> dict[str, Any]:
    """Flags that `cli.rounding` reads."""
    return {
        "exceptions": Annotated[
            list[str] | None,
            typer.Option(
                "--except",
                metavar="PATTERN=WEIGHTS",
                help="Other weights for layers, such as lm_head=int8, embedding=int8 or "
                "layers.0.*=bf16; may be repeated.",
            ),
        ],
        "int4_group": Annotated[
            int | None, _option("Inputs that share a scale: 128, 64 or 32.", "N")
        ],
        "int4_zero_points": Annotated[
            bool | None,
            typer.Option("--int4-zero-points", help="Each such group also says what means zero."),
        ],
        "calibrate": Annotated[
            Path | None,
            _option(
                "Requests, as for `run`: int4 weights are rounded to answer such ones best.", "FILE"
            ),
        ],
        "calibrate_answers": Annotated[
            Path | None, _option("Answers to them, such as an output file.", "FILE")
        ],
        "ipex_options": Annotated[
            list[str] | None,
            typer.Option(
                "--ipex-option",
                metavar="KEY=VALUE",
                help="For --backend ipex: lowp, group_size, act_quant or activations, such as "
                "lowp=int8; may be repeated.",
            ),
        ],
    }


def with_flag_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Put the flags of each group where the command has a parameter of the group's name."""
    groups = {
        name: flags
        for name, flags in (
            ("decoding", _decoding()),
            ("engine", _engine()),
            ("rounding", _rounding()),
        )
        if name in inspect.signature(command).parameters
    }

    @functools.wraps(command)
    def with_groups(**values: Any) -> None:
        for name, flags in groups.items():
            taken = {flag: values.pop(flag) for flag in flags}
            values[name] = {flag: value for flag, value in taken.items() if value is not None}
        command(**values)

    parameters = _spread(command, groups)
    with_groups.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_groups.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_groups


def _spread(
    command: Callable[..., None], groups: Mapping[str, Mapping[str, Any]]
) -> list[inspect.Parameter]:
    """The command's parameters with every group's flags in the group's place."""
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for each in inspect.signature(command).parameters.values():
        if each.name in groups:
            parameters.extend(
                inspect.Parameter(flag, each.KEYWORD_ONLY, default=None, annotation=annotation)
                for flag, annotation in groups[each.name].items()
            )
        else:
            parameters.append(each.replace(kind=each.KEYWORD_ONLY, annotation=hints[each.name]))
    return parameters


def decoding_params(given: Given) -> DecodingParams:
    """The decoding flags, checked; raises InputError that names the flag."""
    from pydantic import ValidationError

    from models.params import DecodingParams

    try:
        return DecodingParams.model_validate(dict(given))
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-") if first["loc"] else "decoding flags"
        raise InputError(f"{flag} cannot be used: {first['msg']}") from exc
