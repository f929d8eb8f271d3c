"""`nightshift model verify` and `gc`: what of a registry is whole, and what can go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.context import load, open_remote_registry
from cli.display import emit, emit_json, format_bytes, say
from models.errors import ArtifactError, NotFoundError, SettingsError

if TYPE_CHECKING:
    from models.settings import Settings

    Found = tuple[str, int, str]  # where it is, its bytes, why it goes


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
        typer.Option(
            min=0.0,
            metavar="DAYS",
            help="Also what was not loaded for so long; with --shared, only what was sent so long "
            "ago (default and least: 1).",
        ),
    ] = None,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            help="Instead, from the registry that nodes share: contents that no artifact has.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be removed, and leave it.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Remove damaged artifacts, downloads that broke off, and what dead processes left.

    Nothing that a process of this machine has loaded, pushes or is adding.
    """
    settings = load(context)
    collect_from = _collect_shared if shared else _collect_here
    found = collect_from(settings, unused_for, dry_run)
    if as_json:
        key = "file" if shared else "folder"
        emit_json([{key: where, "bytes": n, "reason": reason} for where, n, reason in found])
        return
    for where, n_bytes, reason in found:
        emit(f"{where}  {format_bytes(n_bytes)}  {reason}")
    verb = "would be removed" if dry_run else "removed"
    say(f"{len(found)} {verb}, {format_bytes(sum(n_bytes for _, n_bytes, _ in found))}")


def _collect_here(settings: Settings, days: float | None, dry_run: bool) -> list[Found]:
    from worker.llm.registry_care import collect_garbage

    found = collect_garbage(settings.registry_path, unused_for_days=days, dry_run=dry_run)
    return [(str(each.folder), each.bytes, each.reason) for each in found]


def _collect_shared(settings: Settings, days: float | None, dry_run: bool) -> list[Found]:
    from worker.llm.shared_contents import LEAST_DAYS

    remote = open_remote_registry(settings)
    if remote is None:
        raise SettingsError("no registry is named that nodes share: set NIGHTSHIFT_REGISTRY_URL")
    found = remote.remove_unnamed(LEAST_DAYS if days is None else days, dry_run=dry_run)
    files = f"{remote.url.rstrip('/')}/files"
    return [
        (f"{files}/{each.name}", each.bytes, f"of no artifact, sent {each.days:.0f} days ago")
        for each in found
    ]
