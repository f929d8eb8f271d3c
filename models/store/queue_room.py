"""How much of a tenant waits or is stored, held against what a key allows.

Must not know who asks or what it is for.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    exists,
    func,
    or_,
    select,
)

from models.database import Database
from models.errors import QueueFull
from models.states import BatchState, is_terminal
from models.store.keys import KeyLimits
from models.store.turns import take_turn
from models.tables import batches, file_parts, files

_OPEN: Final = tuple(state for state in BatchState if not is_terminal(state))


def check_room(connection: Connection, tenant_id: str, limits: KeyLimits) -> None:
    """Raise QueueFull when the tenant has more than the limits allow.

    The caller has entered what is new before, so that a refusal takes it back.
    """
    check_queued_requests(connection, tenant_id, limits)
    check_stored_bytes(connection, tenant_id, limits)


def check_queued_requests(connection: Connection, tenant_id: str, limits: KeyLimits) -> None:
    """Raise QueueFull when open batches have too many requests without a result.

    Of a batch whose lines are not all read yet, every line of its file counts.
    """
    most = limits.max_queued_requests
    if most is None:
        return
    take_turn(connection, "queue", tenant_id)  # two batches could each find room for one
    queued = _count(connection, _queued_requests(tenant_id))
    if queued > most:
        raise QueueFull(
            f"{queued} requests would wait or run, and this key may have {most}: try again when a "
            "batch has ended, or cancel one"
        )


def check_stored_bytes(connection: Connection, tenant_id: str, limits: KeyLimits) -> None:
    """Raise QueueFull when there are too many bytes.

    Those of stored files count, also while they arrive, and of files with an open batch.
    """
    most = limits.max_queued_bytes
    if most is None:
        return
    stored = _count(connection, _stored_bytes(tenant_id))
    if stored > most:
        raise QueueFull(
            f"{stored} bytes of files would be stored, and this key may have {most}: delete files, "
            "or try again when a batch has ended"
        )


def room_bytes(database: Database, tenant_id: str, limits: KeyLimits) -> int | None:
    """How many more bytes the limits allow to store; None: any number."""
    if limits.max_queued_bytes is None:
        return None
    with database.read() as connection:
        return max(0, limits.max_queued_bytes - _count(connection, _stored_bytes(tenant_id)))


def _queued_requests(tenant_id: str) -> Select[Any]:
    is_read = batches.c.state != str(BatchState.VALIDATING)
    n_lines = case(
        (or_(is_read, files.c.n_lines < batches.c.n_total), batches.c.n_total),
        else_=files.c.n_lines,
    )
    n_open = n_lines - batches.c.n_completed - batches.c.n_failed
    return (
        select(func.sum(n_open))
        .select_from(batches.join(files, files.c.id == batches.c.file_id))
        .where(_is_open(tenant_id))
    )


def _stored_bytes(tenant_id: str) -> Select[Any]:
    is_stored = exists().where(file_parts.c.file_id == files.c.id, file_parts.c.number == 0)
    in_use = files.c.id.in_(select(batches.c.file_id).where(_is_open(tenant_id)))
    of_tenant = files.c.tenant_id == tenant_id
    return select(func.sum(files.c.n_bytes)).where(of_tenant, or_(is_stored, in_use))


def _is_open(tenant_id: str) -> ColumnElement[bool]:
    return and_(batches.c.tenant_id == tenant_id, batches.c.state.in_(_OPEN))


def _count(connection: Connection, statement: Select[Any]) -> int:
    return int(connection.execute(statement).scalar() or 0)
