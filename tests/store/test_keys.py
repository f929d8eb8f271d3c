"""A key opens by its token alone, until it expires or is revoked; its secret is stored nowhere."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from models.database import Database
from models.errors import InputError, NotFoundError
from models.store.keys import (
    KeyLimits,
    NewKey,
    Scope,
    create_key,
    find_key,
    get_key,
    list_keys,
    note_uses,
    revoke_key,
)
from models.tables import api_keys
from tests.store.builders import rows

LIMITS = KeyLimits(requests_per_minute=60, max_queued_requests=1000, max_queued_bytes=1 << 20)


def change(database: Database, key_id: str, **values: Any) -> None:
    with database.begin() as connection:
        connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(values))


def test_the_token_finds_its_key_and_nothing_stored_holds_the_secret(database: Database) -> None:
    new = NewKey(name="nlp", tenant_id="team", scopes=frozenset({Scope.READ}), limits=LIMITS)
    key, token = create_key(database, new)
    assert token == f"ns_{key.id}_{token.rpartition('_')[2]}"
    assert find_key(database, token) == key == get_key(database, key.id)
    assert (key.name, key.tenant_id, key.limits) == ("nlp", "team", LIMITS)
    assert key.scopes == {Scope.READ}
    secret = token.rpartition("_")[2]
    assert len(bytes.fromhex(secret)) * 8 == 256
    assert secret not in str(rows(database, api_keys))


def test_another_secret_id_or_form_finds_nothing(database: Database) -> None:
    (one, token), (other, _) = (create_key(database, NewKey(name=name)) for name in "ab")
    secret = token.rpartition("_")[2]
    changed = secret[:-1] + ("0" if secret[-1] != "0" else "1")
    wrong = (f"ns_{one.id}_{changed}", f"ns_{other.id}_{secret}", f"ns_{'0' * 16}_{secret}")
    malformed = ("", "ns_", secret, f"{token}\n", token.upper(), f"ns_{one.id}_{'0' * 63}é")
    assert [find_key(database, given) for given in (*wrong, *malformed)] == [None] * 9
    assert find_key(database, token) is not None


def test_a_revoked_or_expired_key_opens_nothing(database: Database) -> None:
    key, token = create_key(database, NewKey(name="a", expires_in_s=3600.0))
    assert find_key(database, token) is not None
    change(database, key.id, expires_at=1.0)
    assert find_key(database, token) is None
    change(database, key.id, expires_at=None)
    revoked = revoke_key(database, key.id)
    assert find_key(database, token) is None
    assert not revoked.is_usable
    assert revoke_key(database, key.id) == revoked
    with pytest.raises(NotFoundError, match="nightshift key list"):
        revoke_key(database, "none")


def test_a_use_is_noted_once_a_minute(database: Database) -> None:
    (used, token), (idle, _) = (create_key(database, NewKey(name=name)) for name in "ab")
    assert not used.is_use_noted
    note_uses(database, [])
    note_uses(database, {used.id})
    found = find_key(database, token)
    assert found is not None and found.is_use_noted
    assert found.last_used_at == pytest.approx(found.created_at, abs=60)
    change(database, used.id, last_used_at=(found.last_used_at or 0) - 61)
    assert not get_key(database, used.id).is_use_noted
    assert get_key(database, idle.id).last_used_at is None


def test_keys_are_listed_oldest_first(database: Database) -> None:
    made = [create_key(database, NewKey(name=name, tenant_id=name))[0] for name in "abc"]
    assert list_keys(database) == made


@pytest.mark.parametrize("tenant_id", ["", " ", "a b", "ä", "x" * 65, "-a", "a\n"])
def test_an_odd_tenant_is_refused(database: Database, tenant_id: str) -> None:
    with pytest.raises(InputError, match="tenant"):
        create_key(database, NewKey(name="a", tenant_id=tenant_id))
