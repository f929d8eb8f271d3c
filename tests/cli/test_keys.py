"""The commands that make, list and revoke API keys."""

from __future__ import annotations

import json

import pytest

from models.database import connect_database
from models.store.keys import find_key
from tests.cli.console import Console, assert_one_sentence


def opens(console: Console, token: str) -> bool:
    with connect_database(f"sqlite:///{console.home / 'nightshift.db'}") as database:
        return find_key(database, token) is not None


def test_a_key_is_made_listed_and_revoked(console: Console) -> None:
    assert "nightshift key create" in console.call("key", "list").stderr
    made = console.call("key", "create", "nlp", "--tenant", "team", "--expires-in", "90d")
    token = made.stdout.strip()
    assert made.stdout == f"{token}\n" and token not in made.stderr
    assert opens(console, token)
    limits = ("--requests-per-minute", "60", "--max-queued-requests", "9")
    more = ("--max-queued-bytes", "1000000", "--scopes", "read")
    other = json.loads(console.succeed("key", "create", "x", *limits, *more, "--json"))
    assert (other["requests_per_minute"], other["max_queued_requests"]) == (60, 9)
    assert (other["tenant"], other["scopes"], other["expires_at"]) == ("default", ["read"], None)

    key_id = token.split("_")[1]
    shown = console.succeed("key", "list")
    assert token not in shown and "60/min, 9 queued, 1.0 MB" in shown
    console.succeed("key", "revoke", key_id)
    assert not opens(console, token)
    listed = json.loads(console.succeed("key", "list", "--json"))
    assert [(key["id"], key["revoked_at"] is None) for key in listed] == [
        (key_id, False),
        (other["id"], True),
    ]
    assert "token" not in listed[0]
    assert "revoked" in console.succeed("key", "list")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--scopes", "read,fly"), "--scopes"),
        (("--scopes", ""), "--scopes"),
        (("--expires-in", "soon"), "--expires-in"),
        (("--expires-in", "0d"), "--expires-in"),
        (("--tenant", "a b"), "tenant"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(
    console: Console, arguments: tuple[str, ...], named: str
) -> None:
    ended = console.call("key", "create", "x", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert_one_sentence(ended, named)


def test_revoking_an_unknown_key_says_how_to_find_it(console: Console) -> None:
    ended = console.call("key", "revoke", "nope")
    assert ended.returncode == 3
    assert_one_sentence(ended, "nightshift key list")


def test_others_are_not_served_without_keys(console: Console) -> None:
    ended = console.call("serve", "--host", "0.0.0.0", "--port", "0", "--no-keys")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert_one_sentence(ended, "--no-keys")
