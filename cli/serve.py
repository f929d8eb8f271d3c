"""`nightshift serve`: the HTTP API and its page."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import load, open_database, open_registry, show_log
from cli.display import say
from models.errors import ModelError, NotFoundError

if TYPE_CHECKING:
    from models.database import Database
    from models.store.views import ServedModel
    from worker.llm.registry import Registry, RegistryEntry

_log = logging.getLogger(__name__)


def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="0: any free one.")
    ] = 8000,
    keys: Annotated[
        bool | None,
        typer.Option(
            "--keys/--no-keys",
            help="Ask for API keys; default: unless it is on loopback over SQLite.",
        ),
    ] = None,
) -> None:
    """Serve the HTTP API until Ctrl-C or SIGTERM.

    Batches may name the models of this machine's registry, and those that a worker has served.
    """
    settings = load(context, require_keys=keys)
    from api.gate import needs_keys
    from api.server import listen
    from api.server import serve as serve_api

    show_log(settings)
    with open_database(settings, create=True) as database, listen(host, port) as listening:
        _register_models(database, open_registry(settings))
        address, bound_port = listening.getsockname()[:2]
        keyed = needs_keys(settings, database.dialect, address)
        say(f"listening on http://{host}:{bound_port}")
        say(
            "API keys are needed: `nightshift key create NAME` makes one"
            if keyed
            else "no API key is needed, and only this machine is served"
        )
        serve_api(settings, database, listening)


def _register_models(database: Database, registry: Registry) -> None:
    """Let batches name what is here, and be estimated, before the first worker of it has started.

    What a worker has entered stays: its artifact may be another one.
    """
    from models.store.model_files import keep_model_files
    from models.store.workers import list_models, register_model
    from worker.llm.resolved_tokenizer import kept_files

    known = {model.key: model.artifact for model in list_models(database)}
    for entry in registry.entries():
        try:
            if entry.key not in known:
                register_model(database, _served(entry))
            if known.get(entry.key, entry.digest) == entry.digest:
                keep_model_files(database, entry.key, entry.digest, kept_files(entry.folder))
        except (ModelError, NotFoundError) as exc:
            _log.warning("model %s cannot be served: %s", entry.key, exc)


def _served(entry: RegistryEntry) -> ServedModel:
    """The model as a worker of this artifact would enter it."""
    from models.store.views import ServedModel
    from worker.llm.config import read_model_config
    from worker.llm.generation_defaults import read_generation_defaults

    return ServedModel(
        key=entry.key,
        artifact=entry.digest,
        architecture=entry.architecture,
        context_tokens=read_model_config(entry.folder).max_position_embeddings,
        max_new_tokens=read_generation_defaults(entry.folder).max_new_tokens,
        source=entry.source,
    )
