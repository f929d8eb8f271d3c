"""A key opens what its tenant owns and its scopes allow, on every route that there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.app import create_app
from api.gate import needs_keys
from api.site.session import COOKIE
from models.database import Database
from models.errors import SettingsError
from models.settings import Settings
from models.store.keys import NewKey, Scope, create_key, get_key, revoke_key
from tests.api.operations import (
    CREATE,
    make_key,
    operations,
    own_something,
    refusal,
    run_something,
    visitor,
)
from tests.api.serving import client, serving
from tests.servers import wait_until
from tests.store.builders import everything

ODD = {"content-type": "x"}


def test_no_route_shows_or_changes_another_tenants_rows(database: Database, url: str) -> None:
    token = make_key(database, "theirs")
    theirs = own_something(database, url, token, "theirs")
    owned = [each for each in operations(database) if each.id_names]
    before = everything(database)
    with visitor(url, make_key(database)) as mine, visitor(url, token) as owner:
        for operation in owned:
            for at in operation.addresses(theirs.all_ids()):
                for query in ({}, {"wait": "0.1"}, {"live": "1"}):
                    status, told = refusal(operation.send(mine, at, **query))
                    assert status == 404, f"{operation.method} {at}"
                    assert told.startswith("there is no " if operation.is_page else "not_found")
        assert everything(database) == before
        for operation in owned:
            if operation.method == "GET":
                for at in operation.addresses(theirs.ids()):
                    assert operation.send(owner, at).status_code == 200, at


def test_no_list_shows_another_tenants_rows(database: Database, url: str) -> None:
    token = make_key(database, "theirs")
    theirs = own_something(database, url, token, "theirs")
    ids = {each for found in theirs.all_ids().values() for each in found}
    secrets = (*ids, "secret.jsonl")
    seen = ""
    with visitor(url, make_key(database)) as mine, visitor(url, token) as owner:
        for operation in operations(database):
            if operation.method == "GET" and "{" not in operation.path:
                seen += operation.send(owner).text
                for query in ({}, *({"after": each, "file": each} for each in ids)):
                    shown = operation.send(mine, **query)
                    assert shown.status_code in {200, 404}, operation.path
                    if shown.status_code == 200:
                        assert not any(secret in shown.text for secret in secrets), operation.path
    assert all(secret in seen for secret in secrets)


def test_no_body_can_name_another_tenants_rows(database: Database, url: str) -> None:
    """Every field of a body that is an id is tried; a new one has to be entered here."""
    theirs = own_something(database, url, make_key(database, "theirs"), "theirs")
    named = {"input_file_id": theirs.file_id}
    bodies = {
        ("/v1/batches", "input_file_id"): {**named, **CREATE},
        ("/v1/batches:estimate", "input_file_id"): named,
    }
    assert id_fields(database) == set(bodies)
    with visitor(url, make_key(database)) as mine:
        for (path, name), body in bodies.items():
            answer = mine.post(path, json=body)
            told = (answer.status_code, answer.json()["error"]["param"])
            assert told == (404, name)
        assert refusal(mine.post("/batches", data={**named, **CREATE}))[0] == 404


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
        with visitor(url, given) as session:
            told.add((session.get("/v1/batches").status_code, session.get("/v1/batches").text))
            assert session.get("/").headers["location"] == "/sign-in"
    ((status, text),) = told
    assert status == 401 and '"invalid_api_key"' in text
    with visitor(url, None) as session:
        for operation in operations(database):
            answer = session.request(operation.method, operation.path, content=b"{", headers=ODD)
            at = f"{operation.method} {operation.path}"
            if operation.is_page:
                assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in"), at
                assert operation.send(session, live="1").status_code == 401, at
            else:
                assert (answer.status_code, answer.text) == (401, text), at
                assert answer.headers["www-authenticate"] == "Bearer"
        assert session.get("/health").status_code == session.get("/ready").status_code == 200
        basic = session.get("/v1/batches", headers={"authorization": f"Basic {token}"})
        assert basic.status_code == 401


def test_a_browsers_cookie_opens_the_page_alone(database: Database, url: str) -> None:
    """Forms of other sites could make a browser send it to the API."""
    token = make_key(database)
    with client(url, None) as session:
        cookie = {"cookie": f"{COOKIE}={token}"}
        assert session.get("/", headers=cookie).status_code == 200
        assert session.get("/v1/batches", headers=cookie).status_code == 401
    with client(url, token) as session:
        assert session.get("/v1/batches").status_code == 200
        assert session.get("/").headers["location"] == "/sign-in"


def test_forms_of_other_sites_are_refused_whatever_the_key(database: Database, url: str) -> None:
    with visitor(url, make_key(database)) as session:
        session.headers["origin"] = "https://evil.example"
        for operation in operations(database):
            if operation.is_page and operation.method == "POST":
                status, told = refusal(operation.send(session))
                assert (status, "own page" in told) == (403, True), operation.path


def test_a_revoked_key_is_refused_from_the_next_call_on(database: Database, url: str) -> None:
    token = make_key(database)
    with client(url, token) as session:
        assert session.get("/v1/files").status_code == 200
        revoke_key(database, token.split("_")[1])
        assert session.get("/v1/files").status_code == 401


def test_a_stream_of_events_ends_with_its_key(
    monkeypatch: pytest.MonkeyPatch, database: Database, url: str
) -> None:
    monkeypatch.setattr("api.routes.events.PING_S", 0.05)
    token = make_key(database)
    batch = run_something(database, "mine")
    with (
        client(url, token) as session,
        session.stream("GET", f"/v1/batches/{batch.id}/events") as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == "event: batch"
        revoke_key(database, token.split("_")[1])
        assert not any(line.startswith("event") for line in lines)


def test_reading_and_writing_are_scopes_of_their_own(database: Database, url: str) -> None:
    reader = make_key(database, "mine", Scope.READ)
    writer = make_key(database, "mine", Scope.WRITE)
    with visitor(url, reader) as reading, visitor(url, writer) as writing:
        for operation in operations(database):
            reads = operation.method == "GET"
            allowed, barred = (reading, writing) if reads else (writing, reading)
            status, told = refusal(operation.send(barred))
            at = f"{operation.method} {operation.path}"
            assert status == 403, at
            assert ("this key may not" if operation.is_page else "missing_scope") in told, at
            assert operation.send(allowed).status_code not in {401, 403}, at


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
        ({"host": "127.0.0.2:8000"}, 200),
        ({"origin": "http://localhost:3000"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
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
