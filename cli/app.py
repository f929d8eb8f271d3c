"""The command line put together: every command and the flags that come before it.

Imports of this module stay light; what a command needs is imported when it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from typer.main import get_command

from cli import (
    batches,
    canary,
    databases,
    doctor,
    evaluate,
    generate,
    keys,
    models,
    plan,
    quantize,
    registry_care,
    results,
    run,
    serve,
    sharing,
    status,
    submit,
    webhooks,
    worker,
)
from cli.context import GlobalFlags
from cli.display import emit

if TYPE_CHECKING:
    from typer._click.core import Command


def build_command() -> Command:
    """A fresh command tree."""
    app = _group(
        "Run large batches of prompts through quantized language models on CPUs.\n\n"
        "Data goes to stdout and words to stderr. Every flag before the command is also an "
        "environment variable, NIGHTSHIFT_HOME and so on; flags win."
    )
    app.callback(invoke_without_command=True)(_global_flags)
    app.command()(run.run)
    for command in (submit.submit, status.status, status.wait, results.results):
        app.command()(command)
    for command in (batches.cancel, batches.retry, batches.pause, batches.resume):
        app.command()(command)
    app.command()(worker.worker)
    app.command()(plan.plan)
    app.command()(serve.serve)
    app.command()(generate.generate)
    app.command()(evaluate.evaluate)
    app.command()(canary.canary)
    app.add_typer(_models(), name="model")
    app.add_typer(_keys(), name="key")
    app.add_typer(_webhooks(), name="webhook")
    app.add_typer(_databases(), name="db")
    app.command()(doctor.doctor)
    return get_command(app)


def _global_flags(
    context: typer.Context,
    home: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Folder of SQLite database and registry.")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Job store; default: SQLite in the home.")
    ] = None,
    broker_url: Annotated[
        str | None, typer.Option(metavar="URL", help="redis:// or rediss://; default: none.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Ask this server about batches, not a database."),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other setting; may be repeated."),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed_version

        emit(f"nightshift {installed_version('nightshift')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        emit(context.get_help())
        raise typer.Exit
    context.obj = GlobalFlags(
        home, database_url, broker_url, url, log_level, tuple(assignments or ())
    )


def _models() -> typer.Typer:
    app = _group("The registry of quantized models on this machine.")
    app.command("add")(models.add)
    app.command("quantize")(quantize.quantize)
    app.command("list")(models.list_models)
    app.command("show")(models.show)
    app.command("remove")(models.remove)
    app.command("push")(sharing.push)
    app.command("pull")(sharing.pull)
    app.command("verify")(registry_care.verify)
    app.command("gc")(registry_care.collect)
    return app


def _keys() -> typer.Typer:
    app = _group("Keys of the HTTP API.")
    app.command("create")(keys.create)
    app.command("list")(keys.list_keys)
    app.command("revoke")(keys.revoke)
    return app


def _webhooks() -> typer.Typer:
    app = _group("Receivers that the server calls when a batch ends.")
    app.command("add")(webhooks.add)
    app.command("list")(webhooks.list_webhooks)
    app.command("remove")(webhooks.remove)
    return app


def _databases() -> typer.Typer:
    app = _group("The schema of the job store.")
    app.command("upgrade")(databases.upgrade)
    # A group of one command would otherwise become that command.
    app.callback()(lambda: None)
    return app


def _group(help_text: str) -> typer.Typer:
    return typer.Typer(
        help=help_text,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
