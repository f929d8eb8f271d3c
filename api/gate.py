"""Who may call: the tenant behind a key, what the key may do and how often. Must not know HTTP."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from api.problems import Problem
from api.request_rates import RequestRates
from models.database import Database
from models.errors import DatabaseUnavailable, SettingsError
from models.settings import Settings
from models.store.keys import UNLIMITED, KeyLimits, Scope, find_key, get_key, note_uses
from models.store.views import DEFAULT_TENANT

LOOPBACK: Final = "127.0.0.1"

_REFUSAL: Final = (
    "the API key is missing, wrong, expired or revoked: send `Authorization: Bearer ns_…` with a "
    "key that `nightshift key create NAME` has made"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The tenant whose rows a request may see, and what its key allows."""

    tenant_id: str
    key_id: str | None  # None: keys are not asked for
    scopes: frozenset[Scope]
    limits: KeyLimits

    def may(self, scope: Scope) -> bool:
        """Whether the key has the scope."""
        return scope in self.scopes

    def require(self, scope: Scope) -> None:
        """Raise Problem 403 unless the key has the scope."""
        if not self.may(scope):
            message = f"this key may not {scope}: use one that was made with --scopes {scope}"
            raise Problem(403, message, "missing_scope")


_EVERYBODY: Final = Caller(
    tenant_id=DEFAULT_TENANT, key_id=None, scopes=frozenset(Scope), limits=UNLIMITED
)


class Gate:
    """Lets callers in. `is_open`: everybody on this machine is the default tenant."""

    def __init__(self, database: Database, settings: Settings, *, host: str) -> None:
        self.is_open = not needs_keys(settings, database.dialect, host)
        self._database = database
        self._rates = RequestRates(settings.broker_url)
        self._used: set[str] = set()

    def admit(self, token: str | None) -> Caller:
        """Who holds the token; counts the call. Raises Problem 401 or 429."""
        if self.is_open:
            return _EVERYBODY
        key = None if token is None else find_key(self._database, token)
        if key is None:
            headers = {"www-authenticate": "Bearer"}
            raise Problem(401, _REFUSAL, "invalid_api_key", headers=headers)
        if not key.is_use_noted:
            self._used.add(key.id)
        if key.limits.requests_per_minute is not None:
            self._rates.count(key.id, key.limits.requests_per_minute)
        return Caller(tenant_id=key.tenant_id, key_id=key.id, scopes=key.scopes, limits=key.limits)

    def still_admits(self, caller: Caller) -> bool:
        """Whether the key has been neither revoked nor expired since; counts nothing."""
        try:
            return caller.key_id is None or get_key(self._database, caller.key_id).is_usable
        except DatabaseUnavailable:
            return True  # so far as is known, and nothing is told meanwhile

    def note_uses(self) -> None:
        """Write down which keys were used: beside the calls, so that none waits for a writer."""
        used, self._used = self._used, set()
        note_uses(self._database, used)


def needs_keys(settings: Settings, dialect: str, host: str) -> bool:
    """Whether callers need a key where the API listens on `host`.

    Raises SettingsError for an address that others reach, without keys.
    """
    if settings.require_keys is None:
        return not (dialect == "sqlite" and _is_loopback(host))
    if not settings.require_keys and not _is_loopback(host):
        raise SettingsError(
            f"without keys everybody who reaches {host} could read and change everything: leave "
            "--no-keys out, or listen on 127.0.0.1"
        )
    return settings.require_keys


def is_local_name(name: str | None) -> bool:
    """Whether a host's name always means this machine, whatever a name server says."""
    return name is not None and _is_loopback(name)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
