"""Signing in and out, and forms that come from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Page, expect

from api.site.session import COOKIE
from models.database import Database
from models.states import BatchState
from models.store.batches import get_batch
from models.store.keys import KeyLimits, NewKey, Scope, create_key, revoke_key
from tests.page.batches import batch_with_failures
from tests.page.test_acting import write_requests
from tests.page.visitor import Visitor
from tests.store.builders import submit

WHOLE_FORM = b"endpoint=/v1/chat/completions&completion_window=24h"


def make_key(database: Database, *scopes: Scope, tenant: str = "default", **limits: int) -> str:
    new = NewKey(
        name="reader",
        tenant_id=tenant,
        scopes=frozenset(scopes or Scope),
        limits=KeyLimits(**limits),
    )
    return create_key(database, new)[1]


def sign_in(guest: Visitor, key: str) -> Page:
    """A page of the list, by the form that every page leads to."""
    page = guest.open("/")
    page.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    return page


def test_a_key_lets_in_until_the_reader_signs_out(database: Database, guest: Visitor) -> None:
    submit(database, 8, file_name="ours.jsonl", tenant_id="team")
    theirs = submit(database, 8, file_name="theirs.jsonl")
    page = guest.open("/workers")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(make_key(database, tenant="team"))
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr .name a")).to_have_text(["ours.jsonl"])
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["expires"]) == (True, "Strict", -1)
    page.goto(f"/batches/{theirs.id}")
    expect(page.locator("[data-problem]")).to_contain_text(f"there is no batch {theirs.id}")
    guest.complaints.clear()  # the browser's own about the status 404
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.context.cookies() == []


@pytest.mark.parametrize(
    ("key", "problem"),
    [(None, "is wrong, expired or revoked"), (Scope.WRITE, "this key may not read")],
)
def test_a_key_that_opens_nothing_is_told(
    database: Database, guest: Visitor, key: Scope | None, problem: str
) -> None:
    page = guest.open("/sign-in")
    page.get_by_label("API key").fill("ns_0" if key is None else make_key(database, key))
    page.keyboard.press("Enter")
    expect(page.locator("#key-problem")).to_contain_text(problem)
    expect(page.get_by_label("API key")).to_have_attribute("aria-invalid", "true")
    assert page.context.cookies() == []
    guest.complaints.clear()  # the browser's own about the status


def test_an_open_page_asks_for_a_key_when_its_own_is_revoked(
    database: Database, guest: Visitor
) -> None:
    submit(database, 8)
    key = make_key(database)
    page = sign_in(guest, key)
    expect(page.locator("#batches tbody tr")).to_have_count(1)
    revoke_key(database, key.split("_")[1])
    expect(page.get_by_label("API key")).to_be_visible()
    expect(page.get_by_role("button", name="Sign out")).to_have_count(0)
    assert page.context.cookies() == []
    guest.complaints.clear()  # the browser's own about the status 401


def test_a_form_sent_with_a_revoked_key_leads_to_the_sign_in(
    database: Database, guest: Visitor
) -> None:
    batch = batch_with_failures(database)
    key = make_key(database)
    page = sign_in(guest, key)
    page.goto(f"/batches/{batch.id}")  # it has ended, so the page asks nothing by itself
    revoke_key(database, key.split("_")[1])
    page.get_by_role("button", name="Retry failed").click()
    expect(page.get_by_label("API key")).to_be_visible()


def test_who_may_only_read_is_offered_nothing_else(database: Database, guest: Visitor) -> None:
    key = make_key(database, Scope.READ)
    page = sign_in(guest, key)
    expect(page.locator("#batches .empty")).to_have_text("No batches yet.")
    ended, running = batch_with_failures(database), submit(database, 8)
    expect(page.get_by_text("This key may only read")).to_be_visible()
    for path in ("/", "/workers", f"/batches/{ended.id}", f"/batches/{running.id}"):
        page.goto(path)
        expect(page.locator("#main form, #main button")).to_have_count(0)
    page.goto("/")
    with page.expect_download() as download:
        page.get_by_role("link", name="Output of mixed.jsonl").click()
    assert download.value.path().read_bytes()
    headers = {"origin": guest.url, "cookie": f"{COOKIE}={key}"}
    for change in ("cancel", "pause", "retry"):
        answer = httpx2.post(f"{guest.url}/batches/{running.id}/{change}", headers=headers)
        assert answer.status_code == 403
        assert "data-problem" in answer.text and "this key may not write" in answer.text
    assert get_batch(database, running.id).state is BatchState.IN_PROGRESS


def test_a_page_that_is_open_waits_when_its_key_is_at_its_limit(
    database: Database, guest: Visitor
) -> None:
    submit(database, 8)
    page = sign_in(guest, make_key(database, requests_per_minute=3))  # which takes 2 of them
    expect(page.locator("#connection")).to_have_text(
        re.compile(r"^This key is at its limit: the page goes on in \d+ s\.$"), timeout=10_000
    )
    guest.complaints.clear()  # the browser's own about the status 429


def test_a_file_for_which_the_key_leaves_no_room_is_told(
    database: Database, guest: Visitor, tmp_path: Path
) -> None:
    page = sign_in(guest, make_key(database, max_queued_bytes=10))
    page.get_by_label("Requests, as JSON Lines").set_input_files(write_requests(tmp_path, 3))
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("alert")).to_contain_text("this key may store 10 B more")


def test_the_key_travels_encrypted_only_when_the_page_does(
    database: Database, keyed_url: str
) -> None:
    key = make_key(database)
    for address, is_encrypted in ((keyed_url, False), (keyed_url.replace("http", "https"), True)):
        answer = httpx2.post(f"{keyed_url}/sign-in", data={"key": key}, headers={"origin": address})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        given = answer.headers["set-cookie"]
        assert all(part in given for part in ("HttpOnly", "SameSite=strict", key))
        assert ("Secure" in given) == is_encrypted


def test_without_keys_nothing_is_kept(url: str) -> None:
    answer = httpx2.post(f"{url}/sign-in", data={"key": "ä"}, headers={"origin": url})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://[", "", None])
def test_forms_of_other_sites_are_refused(database: Database, url: str, origin: str | None) -> None:
    batch = submit(database, 8)
    headers = {} if origin is None else {"origin": origin}
    for path in (f"/batches/{batch.id}/cancel", "/sign-in", "/sign-out", "/files", "/batches"):
        assert httpx2.post(url + path, headers=headers).status_code == 403
    assert get_batch(database, batch.id).state is BatchState.IN_PROGRESS


def test_answers_forbid_what_pages_do_not_need(url: str) -> None:
    headers = httpx2.get(url).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/batches/batch_0", 404), ("/?after=batch_0", 404), ("/batches/a?after=x", 400)],
)
def test_what_is_not_there_is_said_in_html(url: str, path: str, status: int) -> None:
    answer = httpx2.get(url + path)
    assert answer.status_code == status
    assert "That did not work" in answer.text


@pytest.mark.parametrize(
    ("content_type", "content", "status"),
    [
        ("application/json", b"{}", 415),
        ("application/x-www-form-urlencoded", b"input_file_id=%ff", 400),
        ("application/x-www-form-urlencoded", b"x=" + b"y" * 20_000, 413),
        ("application/x-www-form-urlencoded", b"&".join([b"a=b"] * 50), 400),
        ("application/x-www-form-urlencoded", b"endpoint=/v1/chat/completions", 400),
        ("application/x-www-form-urlencoded", b"input_file_id=%00&" + WHOLE_FORM, 400),
        ("application/x-www-form-urlencoded", WHOLE_FORM, 400),  # and no file
    ],
)
def test_bad_forms_are_refused(url: str, content_type: str, content: bytes, status: int) -> None:
    headers = {"origin": url, "content-type": content_type}
    answer = httpx2.post(f"{url}/batches", content=content, headers=headers)
    assert answer.status_code == status
    assert "data-problem" in answer.text
