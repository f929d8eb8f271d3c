"""`nightshift webhook`: who is told when a batch ends."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import options
from cli.context import load, open_database
from cli.display import emit, emit_json, format_time, print_table, say
from models.errors import SettingsError

WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Id that `list` shows.")]


def add(
    context: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="https://HOST/PATH of the receiver.")],
    event: Annotated[
        list[str] | None,
        typer.Option(
            "--event",
            metavar="EVENT",
            help="batch.completed, batch.failed, batch.cancelled or batch.expired; may be "
            "repeated. Without it: all.",
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="For your own use.")] = "",
) -> None:
    """Register a receiver and print its signing secret, this once."""
    from models.store.webhooks import add_webhook
    from models.webhooks import WebhookUrl, checked_events

    settings = load(context)
    if not settings.webhooks:
        raise SettingsError(
            "webhooks are switched off: set NIGHTSHIFT_WEBHOOKS=true here and where "
            "`nightshift serve` runs"
        )
    WebhookUrl.parse(url, private_addresses=settings.webhook_private_addresses)
    events = checked_events(event or ())
    with open_database(settings) as database:
        added = add_webhook(database, url, events, name=name)
    say(f"webhook {added.webhook.id}; its secret is shown this once:")
    emit(added.secret)


def list_webhooks(context: typer.Context, as_json: options.AsJson = False) -> None:
    """Show the receivers."""
    from models.store.webhooks import list_webhooks as find_webhooks

    with open_database(load(context)) as database:
        found = find_webhooks(database)
    if as_json:
        emit_json(
            [
                {
                    "id": webhook.id,
                    "name": webhook.name,
                    "url": webhook.url,
                    "event_types": list(webhook.events),
                    "created_at": int(webhook.created_at),
                }
                for webhook in found
            ]
        )
    elif found:
        rows = [
            (
                webhook.id,
                webhook.url,
                " ".join(webhook.events),
                webhook.name,
                format_time(webhook.created_at),
            )
            for webhook in found
        ]
        print_table(("WEBHOOK", "URL", "EVENTS", "NAME", "SINCE"), rows)
    else:
        say("no webhook yet: `nightshift webhook add URL` registers one")


def remove(context: typer.Context, webhook: WebhookId) -> None:
    """Remove a receiver, and what it was not told yet."""
    from models.store.webhooks import remove_webhook

    with open_database(load(context)) as database:
        remove_webhook(database, webhook)
