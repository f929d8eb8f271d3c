"""Signing in and out, and forms that come from elsewhere."""

from __future__ import annotations

import httpx2
import pytest
from playwright.sync_api import expect

from api import access
from api.access import Caller
from api.problems import Problem
from api.services import Services
from models.database import Database
from models.states import BatchState
from models.store.batches import get_batch
from tests.page.visitor import Visitor
from tests.store.builders import submit

KEY = "sk-night-0123456789"
WHOLE_FORM = b"endpoint=/v1/chat/completions&completion_window=24h"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """The only key that the server lets in."""

    def caller_of_token(_services: Services, token: str | None) -> Caller:
        if token != KEY:
            raise Problem(401, "this key is not known here: ask for another", "invalid_api_key")
        return Caller("team")

    monkeypatch.setattr(access, "caller_of_token", caller_of_token)
    return KEY


def test_a_key_lets_in_until_the_reader_signs_out(
    database: Database, visitor: Visitor, key: str
) -> None:
    submit(database, 8, file_name="ours.jsonl", tenant_id="team")
    submit(database, 8, file_name="theirs.jsonl")
    page = visitor.open("/")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(key)
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr .name a")).to_have_text(["ours.jsonl"])
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["expires"]) == (True, "Strict", -1)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.context.cookies() == []


def test_a_wrong_key_is_told(visitor: Visitor, key: str) -> None:
    page = visitor.open("/sign-in")
    page.get_by_label("API key").fill(key + "0")
    page.keyboard.press("Enter")
    expect(page.locator("#key-problem")).to_contain_text("this key is not known here")
    expect(page.get_by_label("API key")).to_have_attribute("aria-invalid", "true")
    assert page.context.cookies() == []
    visitor.complaints.clear()  # the browser's own about the status 401


def test_an_open_page_asks_for_a_key_when_it_is_revoked(
    monkeypatch: pytest.MonkeyPatch, database: Database, visitor: Visitor
) -> None:
    submit(database, 8)
    page = visitor.open("/")

    def nobody(_services: Services, _token: str | None) -> Caller:
        raise Problem(401, "this key was revoked: ask for another", "invalid_api_key")

    monkeypatch.setattr(access, "caller_of_token", nobody)
    expect(page.get_by_label("API key")).to_be_visible()
    visitor.complaints.clear()  # the browser's own about the status 401


def test_the_key_travels_encrypted_only_when_the_page_does(url: str, key: str) -> None:
    headers = {"origin": url.replace("http:", "https:"), "x-forwarded-proto": "https"}
    answer = httpx2.post(f"{url}/sign-in", data={"key": key}, headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    given = answer.headers["set-cookie"]
    assert all(part in given for part in ("HttpOnly", "Secure", "SameSite=strict", key))


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
