"""`nightshift model verify` and `gc`: what of this machine's registry is whole, and what can go."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import options
from cli.context import load
from cli.display import emit, emit_json, format_bytes, say
from models.errors import ArtifactError, NotFoundError


def verify(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Without it, all models.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Read every byte of the artifacts of all backends; exit 5 when one is damaged."""
    from worker.llm.registry_care import verify_registry

    root = load(context).registry_path
    checked = list(verify_registry(root, name))
    if name is not None and not checked:
        raise NotFoundError(f"there is no model {name} in {root}: see `nightshift model list`")
    problems = [each.problem for each in checked if each.problem is not None]
    if as_json:
        emit_json([{"folder": str(each.folder), "problem": each.problem} for each in checked])
    else:
        for each in checked:
            emit(f"{'whole' if each.problem is None else 'damaged'}  {each.folder}")
    if problems:
        raise ArtifactError("; ".join(problems))


def collect(
    context: typer.Context,
    unused_for: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="DAYS", help="Also what was not loaded for so long."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be removed, and leave it.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Remove damaged artifacts, downloads that broke off, and what dead processes left.

    Nothing that a process of this machine has loaded or is adding.
    """
    from worker.llm.registry_care import collect_garbage

    root = load(context).registry_path
    found = collect_garbage(root, unused_for_days=unused_for, dry_run=dry_run)
    if as_json:
        emit_json(
            [
                {"folder": str(each.folder), "bytes": each.bytes, "reason": each.reason}
                for each in found
            ]
        )
        return
    for each in found:
        emit(f"{each.folder}  {format_bytes(each.bytes)}  {each.reason}")
    verb = "would be removed" if dry_run else "removed"
    say(f"{len(found)} {verb}, {format_bytes(sum(each.bytes for each in found))}")
