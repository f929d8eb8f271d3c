"""A server that asks for keys, as processes: made by the command line, sent by every client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from models.errors import SettingsError
from nightshift import Client, UnavailableError
from tests.api.live import LiveServer, live_server
from tests.cli.console import Console, assert_one_sentence
from tests.cli.demo import PROMPTS

N_PROMPTS = len(PROMPTS.read_text(encoding="utf-8").splitlines())


@pytest.fixture
def server(demo_console: Console) -> Iterator[LiveServer]:
    """Whose batches may name `demo-model`, and which no worker runs."""
    with live_server(demo_console, "--keys") as running:
        yield running


def make_key(console: Console, *options: str) -> str:
    ended = console.run("key", "create", "mine", *options)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def elsewhere(folder: Path, server: LiveServer, token: str | None) -> Console:
    """A machine that knows the server and nothing else."""
    settings = {"NIGHTSHIFT_URL": server.url, "NIGHTSHIFT_API_KEY": token or ""}
    return Console(folder / "elsewhere", settings)


@contextmanager
def official(server: LiveServer, token: str) -> Iterator[OpenAI]:
    url = f"{server.url}/v1"
    with OpenAI(base_url=url, api_key=token, _strict_response_validation=True) as client:
        yield client


def test_commands_and_both_clients_send_a_key(
    tmp_path: Path, demo_console: Console, server: LiveServer
) -> None:
    token = make_key(demo_console, "--tenant", "team")
    remote = elsewhere(tmp_path, server, token)
    submitted = remote.run("submit", PROMPTS, "--model", "demo-model")
    assert submitted.returncode == 0, submitted.stderr
    batch_id = submitted.stdout.strip()
    assert json.loads(remote.run("status", batch_id, "--json").stdout)["id"] == batch_id
    with official(server, token) as client, Client(server.url, token) as beside:
        assert client.batches.retrieve(batch_id).endpoint == "/v1/chat/completions"
        assert beside.pause(batch_id)["nightshift"]["paused"]
    assert batch_id not in demo_console.run("status").stdout  # which is the tenant `default`

    for wrong in (None, token[:-1] + "x"):
        ended = elsewhere(tmp_path, server, wrong).run("status", batch_id)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert_one_sentence(ended, "NIGHTSHIFT_API_KEY is the right key", "nightshift key create")
    demo_console.succeed("key", "revoke", token.split("_")[1])
    with official(server, token) as client, pytest.raises(openai.AuthenticationError):
        client.batches.retrieve(batch_id)


def test_a_key_that_may_only_read(demo_console: Console, server: LiveServer) -> None:
    token = make_key(demo_console, "--scopes", "read")
    with official(server, token) as client, Client(server.url, token) as beside:
        assert list(client.batches.list()) == []
        with pytest.raises(openai.PermissionDeniedError, match="this key may not write"):
            client.batches.cancel("batch_1")
        with pytest.raises(SettingsError, match="this key may not write"):
            beside.pause("batch_1")


def test_limits_are_told_by_every_client(
    tmp_path: Path, demo_console: Console, server: LiveServer
) -> None:
    small = make_key(demo_console, "--tenant", "small", "--max-queued-requests", "9")
    ended = elsewhere(tmp_path, server, small).run("submit", PROMPTS, "--model", "demo-model")
    assert (ended.returncode, ended.stdout) == (UnavailableError.exit_code, "")
    assert_one_sentence(ended, f"{N_PROMPTS} requests would wait or run, and this key may have 9")
    with official(server, small) as client:
        assert list(client.files.list()) == []  # what was uploaded for it is gone again
        file = client.files.create(file=PROMPTS, purpose="batch")
        with pytest.raises(openai.RateLimitError, match="this key may have 9") as full:
            client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
            )
        assert full.value.code == "queue_full"

    rare = make_key(demo_console, "--requests-per-minute", "1")
    with official(server, rare) as client:
        assert list(client.models.list())
        with pytest.raises(openai.RateLimitError, match="1 times a minute"):
            client.with_options(max_retries=0).models.list()
