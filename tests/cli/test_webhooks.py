"""`nightshift webhook`: register, list, remove."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.console import Console, assert_one_sentence

URL = "https://example.org/hook"


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path / "home", {"NIGHTSHIFT_WEBHOOKS": "true"})


def test_adding_prints_the_secret_and_nothing_else_on_stdout(console: Console) -> None:
    ended = console.run("webhook", "add", URL, "--event", "batch.failed", "--name", "mine")
    assert ended.returncode == 0, ended.stderr
    secret = ended.stdout.strip()
    assert secret.startswith("whsec_")
    assert len(secret.split()) == 1
    (listed,) = json.loads(console.succeed("webhook", "list", "--json"))
    assert listed["id"] in ended.stderr
    assert (listed["url"], listed["name"]) == (URL, "mine")
    assert listed["event_types"] == ["batch.failed"]
    shown = console.succeed("webhook", "list")
    assert listed["id"] in shown
    assert secret not in shown + console.succeed("webhook", "list", "--json")


def test_without_an_event_it_hears_of_all(console: Console) -> None:
    console.succeed("webhook", "add", URL)
    (listed,) = json.loads(console.succeed("webhook", "list", "--json"))
    assert listed["event_types"] == [
        "batch.completed",
        "batch.failed",
        "batch.cancelled",
        "batch.expired",
    ]


def test_a_removed_webhook_is_gone(console: Console) -> None:
    console.succeed("webhook", "add", URL)
    (listed,) = json.loads(console.succeed("webhook", "list", "--json"))
    console.succeed("webhook", "remove", listed["id"])
    assert json.loads(console.succeed("webhook", "list", "--json")) == []
    assert console.call("webhook", "list").stderr.startswith("no webhook yet")
    ended = console.call("webhook", "remove", listed["id"])
    assert ended.returncode == 3
    assert_one_sentence(ended, listed["id"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["http://example.org/"], "https://"),
        (["https://10.0.0.1/"], "not a public one"),
        ([URL, "--event", "batch.started"], "batch.completed"),
    ],
)
def test_what_cannot_be_is_refused(console: Console, arguments: list[str], said: str) -> None:
    ended = console.call("webhook", "add", *arguments)
    assert ended.returncode == 2
    assert_one_sentence(ended, said)


def test_adding_needs_the_setting(tmp_path: Path) -> None:
    ended = Console(tmp_path / "home").call("webhook", "add", URL)
    assert ended.returncode == 2
    assert_one_sentence(ended, "NIGHTSHIFT_WEBHOOKS=true")
