"""`nightshift key …`: API keys, made and revoked by whoever reaches the database."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.context import load, open_database
from cli.display import emit, emit_json, format_bytes, format_time, print_table, say
from models.errors import InputError

if TYPE_CHECKING:
    from models.store.keys import ApiKey, Scope

_DURATION = re.compile(r"([1-9][0-9]{0,5})([hd])")
_UNIT_S = {"h": 3600.0, "d": 86_400.0}


def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what the key is for.")],
    tenant: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose batches and files it sees; default: default."),
    ] = None,
    scopes: Annotated[
        str, typer.Option(metavar="LIST", help="read, write or both.")
    ] = "read,write",
    expires_in: Annotated[
        str | None, typer.Option(metavar="TIME", help="12h or 90d; default: never.")
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Calls within a minute at most.")
    ] = None,
    max_queued_requests: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Requests without a result of the tenant at most."),
    ] = None,
    max_queued_bytes: Annotated[
        int | None,
        typer.Option(metavar="BYTES", min=1, help="Uploaded files of the tenant at most."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Make an API key and print its token, which is never shown again."""
    from models.store.keys import KeyLimits, NewKey, create_key
    from models.store.views import DEFAULT_TENANT

    new = NewKey(
        name=name,
        tenant_id=DEFAULT_TENANT if tenant is None else tenant,
        scopes=_scopes(scopes),
        limits=KeyLimits(
            requests_per_minute=requests_per_minute,
            max_queued_requests=max_queued_requests,
            max_queued_bytes=max_queued_bytes,
        ),
        expires_in_s=None if expires_in is None else _seconds(expires_in),
    )
    with open_database(load(context)) as database:
        key, token = create_key(database, new)
    if as_json:
        emit_json({**_as_dict(key), "token": token})
    else:
        say(f"key {key.id} of tenant {key.tenant_id}; keep its token, it is not shown again:")
        emit(token)


def list_keys(context: typer.Context, as_json: options.AsJson = False) -> None:
    """List the keys, without their tokens."""
    from models.store import keys

    with open_database(load(context)) as database:
        found = keys.list_keys(database)
    if as_json:
        emit_json([_as_dict(key) for key in found])
    elif found:
        columns = ("ID", "NAME", "TENANT", "SCOPES", "LIMITS", "STATE", "EXPIRES", "LAST USED")
        print_table(columns, [_row(key) for key in found])
    else:
        say("no key yet; `nightshift key create NAME` makes one")


def revoke(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="ID", help="Id that `key list` shows.")],
) -> None:
    """Revoke a key: from now on it opens nothing."""
    from models.store.keys import revoke_key

    with open_database(load(context)) as database:
        say(f"revoked key {revoke_key(database, key).id}")


def _scopes(text: str) -> frozenset[Scope]:
    from models.store.keys import Scope

    names = {name.strip() for name in text.split(",")}
    known = {str(scope) for scope in Scope}
    if not names <= known:
        raise InputError(f"--scopes is {text!r}; give {' or '.join(sorted(known))}, or both")
    return frozenset(map(Scope, names))


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InputError(f"--expires-in is {text!r}; give hours or days such as 12h or 90d")
    return int(match[1]) * _UNIT_S[match[2]]


def _row(key: ApiKey) -> tuple[str, ...]:
    state = "usable" if key.is_usable else "expired" if key.revoked_at is None else "revoked"
    scopes = ",".join(sorted(key.scopes))
    times = (format_time(key.expires_at), format_time(key.last_used_at))
    return (key.id, key.name, key.tenant_id, scopes, _limits(key), state, *times)


def _limits(key: ApiKey) -> str:
    limits = key.limits
    told = (
        (limits.requests_per_minute, "{}/min"),
        (limits.max_queued_requests, "{} queued"),
        (limits.max_queued_bytes and format_bytes(limits.max_queued_bytes), "{}"),
    )
    return ", ".join(text.format(value) for value, text in told if value is not None) or "-"


def _as_dict(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant_id,
        "scopes": sorted(key.scopes),
        "requests_per_minute": key.limits.requests_per_minute,
        "max_queued_requests": key.limits.max_queued_requests,
        "max_queued_bytes": key.limits.max_queued_bytes,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
    }
