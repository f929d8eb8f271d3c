"""API keys: a token is shown once, its secret kept as a digest, and looked up by its id.

A secret has 256 random bits, so a plain SHA-256 of it is enough. Must not know HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import ColumnElement, RowMapping, and_, func, insert, or_, select, update

from models.clock import db_now
from models.database import Database
from models.errors import InputError, NotFoundError
from models.store.views import DEFAULT_TENANT
from models.tables import api_keys

USE_NOTED_EVERY_S: Final = 60.0
_SECRET_BYTES: Final = 32
_ID_BYTES: Final = 8
_TOKEN: Final = re.compile(r"ns_([0-9a-f]{16})_([0-9a-f]{64})")
_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NO_DIGEST: Final = "0" * 64  # what the secret of an unknown id is compared with


class Scope(StrEnum):
    """What a key may do."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """How much one key may ask for; None: as much as it likes."""

    requests_per_minute: int | None = None
    max_queued_requests: int | None = None
    max_queued_bytes: int | None = None


UNLIMITED: Final = KeyLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key to be made."""

    name: str
    tenant_id: str = DEFAULT_TENANT
    scopes: frozenset[Scope] = frozenset(Scope)
    limits: KeyLimits = UNLIMITED
    expires_in_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key without its secret; times are Unix seconds."""

    id: str
    name: str
    tenant_id: str
    scopes: frozenset[Scope]
    limits: KeyLimits
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None
    is_usable: bool  # neither revoked nor expired
    is_use_noted: bool  # `last_used_at` is of the last minute


def create_key(database: Database, new: NewKey) -> tuple[ApiKey, str]:
    """The key and its token, which cannot be read again. Raises InputError for a bad tenant."""
    if not _TENANT.fullmatch(new.tenant_id):
        raise InputError(
            f"tenant {new.tenant_id!r} cannot be used: give 1 to 64 letters, digits, '.', '_', '-'"
        )
    key_id, secret = secrets.token_hex(_ID_BYTES), secrets.token_hex(_SECRET_BYTES)
    values = {
        "id": key_id,
        "tenant_id": new.tenant_id,
        "name": new.name,
        "secret_sha256": _digest(secret),
        "scopes": sorted(new.scopes),
        "requests_per_minute": new.limits.requests_per_minute,
        "max_queued_requests": new.limits.max_queued_requests,
        "max_queued_bytes": new.limits.max_queued_bytes,
        "created_at": db_now(),
        "expires_at": None if new.expires_in_s is None else db_now() + new.expires_in_s,
    }
    database.transact(lambda connection: connection.execute(insert(api_keys).values(values)))
    return get_key(database, key_id), f"ns_{key_id}_{secret}"


def find_key(database: Database, token: str) -> ApiKey | None:
    """The usable key of this token; an unknown id takes the same work as a wrong secret."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    key_id, secret = match.groups()
    row = _read(database, key_id)
    stored = _NO_DIGEST if row is None else str(row["secret_sha256"])
    is_right = hmac.compare_digest(stored, _digest(secret))
    if row is None or not is_right or not row["is_usable"]:
        return None
    return _key_view(row)


def get_key(database: Database, key_id: str) -> ApiKey:
    """The key of this id; raises NotFoundError."""
    row = _read(database, key_id)
    if row is None:
        raise NotFoundError(f"there is no key {key_id}: `nightshift key list` lists them")
    return _key_view(row)


def list_keys(database: Database) -> list[ApiKey]:
    """Every key of every tenant, oldest first."""
    statement = _SELECT.order_by(api_keys.c.created_at, api_keys.c.id)
    with database.read() as connection:
        return [_key_view(row) for row in connection.execute(statement).mappings()]


def revoke_key(database: Database, key_id: str) -> ApiKey:
    """From now on the key opens nothing; twice is the same as once. Raises NotFoundError."""
    revoked_at = func.coalesce(api_keys.c.revoked_at, db_now())
    statement = update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=revoked_at)
    database.transact(lambda connection: connection.execute(statement), replayable=True)
    return get_key(database, key_id)


def note_uses(database: Database, key_ids: Collection[str]) -> None:
    """Write down that these keys were used a moment ago."""
    if not key_ids:
        return
    used = api_keys.c.id.in_(sorted(key_ids))
    statement = update(api_keys).where(used).values(last_used_at=db_now())
    database.transact(lambda connection: connection.execute(statement), replayable=True)


def _is_usable() -> ColumnElement[bool]:
    unexpired = or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > db_now())
    return and_(api_keys.c.revoked_at.is_(None), unexpired)


def _is_use_noted() -> ColumnElement[bool]:
    return func.coalesce(api_keys.c.last_used_at > db_now() - USE_NOTED_EVERY_S, False)


_SELECT: Final = select(
    api_keys, _is_usable().label("is_usable"), _is_use_noted().label("is_use_noted")
)


def _read(database: Database, key_id: str) -> RowMapping | None:
    with database.read() as connection:
        return connection.execute(_SELECT.where(api_keys.c.id == key_id)).mappings().first()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key_view(row: RowMapping) -> ApiKey:
    names = ("id", "name", "tenant_id", "created_at", "expires_at", "revoked_at", "last_used_at")
    limits = KeyLimits(**{name: row[name] for name in KeyLimits.__slots__})
    return ApiKey(
        **{name: row[name] for name in names},
        scopes=frozenset(map(Scope, row["scopes"])),
        limits=limits,
        is_usable=bool(row["is_usable"]),
        is_use_noted=bool(row["is_use_noted"]),
    )
