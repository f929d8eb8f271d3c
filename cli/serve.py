"""`nightshift serve`: the HTTP API and its page."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.context import load, open_database, show_log
from cli.display import say


def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", help="0: any free one.")] = 8000,
) -> None:
    """Serve the HTTP API until Ctrl-C or SIGTERM."""
    settings = load(context)
    from api.server import listen
    from api.server import serve as serve_api

    show_log(settings)
    with open_database(settings, create=True) as database, listen(host, port) as listening:
        say(f"listening on http://{host}:{listening.getsockname()[1]}")
        serve_api(settings, database, listening)
