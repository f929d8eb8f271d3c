"""`nightshift model …`: the registry of quantized models on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.context import all_entries, load, open_registry
from cli.display import emit, emit_json, format_bytes, print_pairs, print_table, say
from cli.flag_groups import with_flag_groups
from cli.model_choice import DEFAULT_WEIGHTS, add_to_registry, split_name
from cli.rounding import Rounding
from models.backend_name import BackendName
from models.model_key import Weights

if TYPE_CHECKING:
    from worker.llm.registry import RegistryEntry

RegisteredName = Annotated[str, typer.Argument(metavar="NAME", help="Registered name.")]
Kind = Annotated[Weights, typer.Option("--weights", help="Kind of weights to make.")]
For = Annotated[
    BackendName | None,
    typer.Option("--backend", help="Backend it is for; default: native."),
]


@with_flag_groups
def add(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="PATH_OR_HUB_ID", help="Folder, or OWNER/NAME on the Hub.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Default: the last part of the source.")
    ] = None,
    weights: Kind = DEFAULT_WEIGHTS,
    backend: For = None,
    revision: Annotated[
        str | None, typer.Option(metavar="REV", help="Branch, tag or commit on the Hub.")
    ] = None,
    *,
    rounding: Mapping[str, Any],
    as_json: options.AsJson = False,
) -> None:
    """Quantize a model into the registry; nothing is done again when it is there.

    A gated model of the Hub needs HF_TOKEN in the environment and its licence accepted.
    """
    registry = open_registry(load(context, backend=backend))
    asked = Rounding(**rounding)
    entry = add_to_registry(
        registry,
        source,
        name=name,
        weights=weights,
        layers=asked.layers(weights),
        ipex=asked.ipex(weights),
        revision=revision,
    )
    report(entry, as_json=as_json)


def list_models(context: typer.Context, as_json: options.AsJson = False) -> None:
    """List the registered models, of all backends."""
    entries = all_entries(load(context))
    if as_json:
        emit_json([as_dict(entry) for entry in entries])
    elif entries:
        print_table(
            ("NAME", "WEIGHTS", "BACKEND", "SIZE", "SOURCE"),
            [
                (
                    entry.key.name,
                    str(entry.key.weights),
                    str(entry.backend),
                    format_bytes(entry.bytes),
                    entry.source,
                )
                for entry in entries
            ],
        )
    else:
        say("no model yet; `nightshift model add PATH_OR_HUB_ID` registers one")


def show(
    context: typer.Context,
    name: RegisteredName,
    weights: options.WeightsKind = None,
    backend: For = None,
    as_json: options.AsJson = False,
) -> None:
    """Show one registered model: where it came from and how it was quantized."""
    registry = open_registry(load(context, backend=backend))
    entry = registry.entry(registry.resolve(*split_name(name, weights)))
    if as_json:
        emit_json(as_dict(entry))
    else:
        shown = as_dict(entry) | {"recipe": _in_words(entry.recipe)}
        print_pairs([(name, str(value)) for name, value in shown.items()])


def remove(
    context: typer.Context,
    name: RegisteredName,
    weights: options.WeightsKind = None,
    backend: For = None,
) -> None:
    """Remove one kind of weights of a registered model from the disk."""
    registry = open_registry(load(context, backend=backend))
    key = registry.resolve(*split_name(name, weights))
    registry.remove(key)
    say(f"removed {key}")


def report(entry: RegistryEntry, *, as_json: bool) -> None:
    """Print the key of an artifact, or all of it."""
    if as_json:
        emit_json(as_dict(entry))
    else:
        if entry.checkpoint is not None:
            say(f"the checkpoint was quantized already: {entry.checkpoint}")
        emit(str(entry.key))


def as_dict(entry: RegistryEntry) -> dict[str, object]:
    """An artifact in JSON."""
    before = {} if entry.checkpoint is None else {"checkpoint": entry.checkpoint}
    return {
        "name": entry.key.name,
        "weights": str(entry.key.weights),
        "backend": str(entry.backend),
        "folder": str(entry.folder),
        "bytes": entry.bytes,
        "source": entry.source,
        "commit": entry.commit,
        "architecture": entry.architecture,
        "digest": entry.digest,
        "recipe": dict(entry.recipe),
        **before,
    }


def _in_words(recipe: Mapping[str, str | int]) -> str:
    return ", ".join(f"{key} {value}" for key, value in recipe.items())
