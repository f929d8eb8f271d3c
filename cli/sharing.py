"""`nightshift model push` and `pull`: artifacts that one machine made, for all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import model_choice, options
from cli.context import load, open_registry, open_remote_registry
from cli.display import format_bytes, say
from cli.model_choice import split_name
from cli.models import For, RegisteredName, report
from cli.progress import ModelProgress
from models.errors import SettingsError

if TYPE_CHECKING:
    from models.settings import Settings
    from worker.llm.remote_registry import RemoteRegistry


def push(
    context: typer.Context,
    name: RegisteredName,
    weights: options.WeightsKind = None,
    backend: For = None,
    to: Annotated[
        str | None, typer.Option(metavar="URL", help="Default: NIGHTSHIFT_REGISTRY_URL.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Send an artifact to the registry that nodes share; files that are there are not sent again.

    Every byte is checked first: what is damaged here goes nowhere.
    """
    from worker.llm.artifact import open_artifact
    from worker.llm.artifact_use import kept

    settings = load(context, backend=backend)
    remote, registry = _remote(settings, to, "--to"), open_registry(settings)
    key = registry.resolve(*split_name(name, weights))
    with kept(registry.path(key)):
        artifact = open_artifact(registry.find(key), verify=True)
        with ModelProgress(f"pushing {key}", unit="bytes") as progress:
            sent = remote.push(artifact, key, progress.update)
        say(f"sent {sent.files_sent} of {sent.files} files, {format_bytes(sent.bytes_sent)}")
        report(registry.entry(key), as_json=as_json)


def pull(
    context: typer.Context,
    name: RegisteredName,
    weights: options.WeightsKind = None,
    backend: For = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="Default: NIGHTSHIFT_REGISTRY_URL.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Bring an artifact of the registry that nodes share to this machine.

    A download that broke off is gone on with. `nightshift worker` and `run` do this by themselves.
    """
    settings = load(context, backend=backend)
    remote = _remote(settings, source, "--from")
    key = remote.resolve(*split_name(name, weights))
    entry = model_choice.pull(remote, open_registry(settings), key)
    report(entry, as_json=as_json)


def _remote(settings: Settings, url: str | None, flag: str) -> RemoteRegistry:
    remote = open_remote_registry(settings, url)
    if remote is None:
        raise SettingsError(
            f"no registry is named that nodes share: give {flag} URL, or NIGHTSHIFT_REGISTRY_URL"
        )
    return remote
