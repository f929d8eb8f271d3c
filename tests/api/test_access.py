"""A key opens what its tenant owns and its scopes allow, on every route that there is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from fastapi.routing import iter_route_contexts

from api.app import create_app
from api.gate import needs_keys
from models.database import Database
from models.errors import SettingsError
from models.settings import Settings
from models.store.keys import NewKey, Scope, create_key, get_key, revoke_key
from tests.api.serving import client, serving
from tests.servers import wait_until

PUBLIC = {"/health", "/ready", "/docs", "/docs/oauth2-redirect", "/openapi.json"}
SHARED = {"model"}  # path parameters that name what all tenants see
LINES = b"".join(
    b'{"custom_id":"r%d","method":"POST","url":"/v1/chat/completions","body":{"model":"demo",'
    b'"messages":[{"role":"user","content":"x"}]}}\n' % number
    for number in range(2)
)
CREATE = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}


def make_key(database: Database, tenant_id: str = "mine", *scopes: Scope) -> str:
    new = NewKey(name="test", tenant_id=tenant_id, scopes=frozenset(scopes or Scope))
    return create_key(database, new)[1]


@dataclass(frozen=True, slots=True)
class Owned:
    """The ids of what one tenant has, all of it readable."""

    batch_id: str
    file_id: str
    error_file_id: str

    def of(self, name: str) -> list[str]:
        """What a path parameter of that name could be."""
        known = {"batch_id": [self.batch_id], "file_id": [self.file_id, self.error_file_id]}
        assert name in known, f"a new kind of id: say here what {name} could be"
        return known[name]


def own_something(url: str, token: str) -> Owned:
    """A file, and a batch of it that was cancelled, so that it has an error file."""
    with client(url, token) as session:
        file_id = upload(session, LINES).json()["id"]
        batch = session.post("/v1/batches", json={"input_file_id": file_id, **CREATE}).json()
        at = f"/v1/batches/{batch['id']}"
        wait_until(lambda: session.get(at).json()["status"] == "in_progress", "it is validated")
        ended = session.post(f"{at}/cancel").json()
        assert ended["status"] == "cancelled"
        return Owned(batch["id"], file_id, ended["error_file_id"])


def upload(session: httpx2.Client, content: bytes) -> httpx2.Response:
    files = {"file": ("in.jsonl", content)}
    return session.post("/v1/files", files=files, data={"purpose": "batch"})


def operations(database: Database) -> list[tuple[str, str, list[str]]]:
    """Method, path and path parameters of everything that needs a key."""
    found = []
    for route in iter_route_contexts(create_app(Settings(), database).routes):
        assert route.path is not None
        if route.path not in PUBLIC:
            names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
            found += [(method, route.path, names) for method in sorted(route.methods or ())]
    assert len(found) >= 10
    return found


def test_no_route_shows_or_changes_another_tenants_rows(database: Database, url: str) -> None:
    theirs_token = make_key(database, "theirs")
    theirs = own_something(url, theirs_token)
    with client(url, make_key(database)) as mine, client(url, theirs_token) as owner:
        for method, path, names in operations(database):
            owned = [name for name in names if name not in SHARED]
            if not owned:
                continue
            (name,) = owned
            for identity in theirs.of(name):
                at = path.replace(f"{{{name}}}", identity)
                answer = mine.request(method, at)
                told = (answer.status_code, answer.json()["error"]["code"])
                assert told == (404, "not_found"), f"{method} {path}"
                if method == "GET":
                    assert owner.get(at).status_code == 200
        assert owner.get(f"/v1/files/{theirs.file_id}/content").content == LINES


def test_no_list_shows_another_tenants_rows(database: Database, url: str) -> None:
    theirs = own_something(url, make_key(database, "theirs"))
    ids = (theirs.batch_id, theirs.file_id, theirs.error_file_id)
    with client(url, make_key(database)) as mine:
        for method, path, names in operations(database):
            if method == "GET" and not names:
                shown = mine.get(path)
                assert shown.status_code == 200
                assert not any(identity in shown.text for identity in ids), path
                for identity in ids:
                    after = mine.get(path, params={"after": identity})
                    assert after.status_code in {200, 404}
                    assert not after.json().get("data") or after.json() == shown.json(), path


def test_no_body_can_name_another_tenants_rows(database: Database, url: str) -> None:
    """Every field of a body that is an id is tried; a new one has to be entered here."""
    theirs = own_something(url, make_key(database, "theirs"))
    bodies = {
        ("/v1/batches", "input_file_id"): {"input_file_id": theirs.file_id, **CREATE},
    }
    assert id_fields(database) == set(bodies)
    with client(url, make_key(database)) as mine:
        for (path, name), body in bodies.items():
            answer = mine.post(path, json=body)
            told = (answer.status_code, answer.json()["error"]["param"])
            assert told == (404, name)


def id_fields(database: Database) -> set[tuple[str, str]]:
    """Path and name of each field of a request body whose name ends like that of an id."""
    return {
        (path, name)
        for path, methods in create_app(Settings(), database).openapi()["paths"].items()
        for operation in methods.values()
        for content in operation.get("requestBody", {}).get("content", {}).values()
        for name in content["schema"].get("properties", ())
        if name.endswith("_id")
    }


def test_without_a_usable_key_every_route_says_the_same(database: Database, url: str) -> None:
    token = make_key(database)
    key_id = token.split("_")[1]
    revoked, expired = make_key(database), create_key(database, NewKey(name="x", expires_in_s=-1))
    revoke_key(database, revoked.split("_")[1])
    refused = [None, "x", "ns_", f"ns_{key_id}_{'0' * 64}", f"ns_{'0' * 16}_{'0' * 64}"]
    told = set()
    for given in [*refused, revoked, expired[1]]:
        with client(url, given) as session:
            told.add((session.get("/v1/batches").status_code, session.get("/v1/batches").text))
    ((status, text),) = told
    assert status == 401 and '"invalid_api_key"' in text
    with client(url, None) as session:
        for method, path, _ in operations(database):
            answer = session.request(method, path, content=b"{", headers={"content-type": "x"})
            assert (answer.status_code, answer.text) == (401, text), f"{method} {path}"
            assert answer.headers["www-authenticate"] == "Bearer"
        assert session.get("/health").status_code == session.get("/ready").status_code == 200
        basic = session.get("/v1/batches", headers={"authorization": f"Basic {token}"})
        assert basic.status_code == 401


def test_a_revoked_key_is_refused_from_the_next_call_on(database: Database, url: str) -> None:
    token = make_key(database)
    with client(url, token) as session:
        assert session.get("/v1/files").status_code == 200
        revoke_key(database, token.split("_")[1])
        assert session.get("/v1/files").status_code == 401


def test_reading_and_writing_are_scopes_of_their_own(database: Database, url: str) -> None:
    reader = make_key(database, "mine", Scope.READ)
    writer = make_key(database, "mine", Scope.WRITE)
    with client(url, reader) as reading, client(url, writer) as writing:
        for method, path, _ in operations(database):
            allowed, barred = (reading, writing) if method == "GET" else (writing, reading)
            answer = barred.request(method, path)
            told = (answer.status_code, answer.json()["error"]["code"])
            assert told == (403, "missing_scope"), f"{method} {path}"
            assert allowed.request(method, path).status_code not in {401, 403}


def test_the_last_use_of_a_key_is_written_down(database: Database, url: str) -> None:
    token = make_key(database)
    key_id = token.split("_")[1]
    with client(url, token) as session:
        session.get("/v1/files")
    wait_until(lambda: get_key(database, key_id).last_used_at is not None, "the use is noted")


@pytest.mark.parametrize(
    ("required", "dialect", "host", "expected"),
    [
        (None, "sqlite", "127.0.0.1", False),
        (None, "sqlite", "::1", False),
        (None, "sqlite", "localhost", False),
        (None, "sqlite", "0.0.0.0", True),
        (None, "sqlite", "192.168.0.1", True),
        (None, "sqlite", "example.org", True),
        (None, "postgresql", "127.0.0.1", True),
        (True, "sqlite", "127.0.0.1", True),
        (False, "postgresql", "127.0.0.2", False),
    ],
)
def test_keys_are_needed_but_on_loopback_over_sqlite(
    required: bool | None, dialect: str, host: str, expected: bool
) -> None:
    assert needs_keys(Settings(require_keys=required), dialect, host) == expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_others_are_never_served_without_keys(host: str) -> None:
    with pytest.raises(SettingsError, match=r"--no-keys .* 127\.0\.0\.1$"):
        needs_keys(Settings(require_keys=False), "sqlite", host)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"origin": "http://localhost:3000"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "[::1"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_without_keys_a_web_page_of_another_site_reaches_nothing(
    database: Database, tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    with serving(database, home=tmp_path) as url, client(url, None) as session:
        assert session.get("/v1/batches", headers=headers).status_code == status
