"""Calls that make a batch and may come twice: a repeat finds the batch of its first attempt.

Each function works inside the caller's transaction, which makes the batch when none is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, select, update

from models.clock import db_now, moment
from models.errors import IdempotencyConflict
from models.store.turns import take_turn
from models.tables import batches

REPEATED_WITHIN_S: Final = 600.0  # as long as the official client waits for an answer
_ORIGINAL_WITHIN_S: Final = 60.0  # a first attempt that its own repeat overtook


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What makes two calls the same; `body_sha256` is of everything that was given.

    `is_repeat`: the client says that it has sent this before and got no answer.
    """

    tenant_id: str
    body_sha256: str
    idempotency_key: str | None = None
    is_repeat: bool = False


def find_known(connection: Connection, call: Call) -> str | None:
    """The batch that the same call made before; calls alike wait here for each other.

    Without an idempotency key a repeat finds the batch of its first attempt, also when both
    arrive at once or in the wrong order. Raises IdempotencyConflict for a known key with another
    body.
    """
    take_turn(connection, "create", call.idempotency_key or call.body_sha256)
    if call.idempotency_key is None:
        return _find_alike(connection, call)
    return find_by_key(connection, call.tenant_id, call.idempotency_key, call.body_sha256)


def find_by_key(
    connection: Connection, tenant_id: str, idempotency_key: str, body_sha256: str
) -> str | None:
    """The batch made with this key; raises IdempotencyConflict for one with another body."""
    statement = select(batches.c.id, batches.c.body_sha256).where(
        batches.c.tenant_id == tenant_id, batches.c.idempotency_key == idempotency_key
    )
    found = connection.execute(statement).first()
    if found is None:
        return None
    if found.body_sha256 != body_sha256:
        raise IdempotencyConflict(
            f"the idempotency key {idempotency_key!r} was used for batch {found.id} with other "
            "content: choose a new key"
        )
    return str(found.id)


def call_values(call: Call) -> dict[str, Any]:
    """The columns of a new batch by which later calls find it."""
    return {
        "idempotency_key": call.idempotency_key,
        "body_sha256": call.body_sha256,
        "repeat_until": db_now() + _ORIGINAL_WITHIN_S if call.is_repeat else None,
    }


def _find_alike(connection: Connection, call: Call) -> str | None:
    alike = (
        select(batches.c.id, batches.c.repeat_until)
        .where(batches.c.tenant_id == call.tenant_id, batches.c.body_sha256 == call.body_sha256)
        .where(batches.c.idempotency_key.is_(None))
        .where(batches.c.created_at > moment() - REPEATED_WITHIN_S)
        .order_by(batches.c.created_at.desc(), batches.c.id.desc())
        .limit(1)
    )
    if not call.is_repeat:
        alike = alike.where(batches.c.repeat_until > db_now())
    found = connection.execute(alike).first()
    if found is None:
        return None
    if not call.is_repeat:  # the first attempt has come after all: what follows is a batch anew
        of_batch = batches.c.id == found.id
        connection.execute(update(batches).where(of_batch).values(repeat_until=None))
    return str(found.id)
