"""The official `openai` client, unmodified, against a real server and a real worker."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.api.live import live_server, live_worker
from tests.api.losing import losing
from tests.cli.console import Console
from tests.cli.demo import PROMPTS

PROJECT = Path(__file__).resolve().parents[2]
SESSION = Path(__file__).with_name("client_session.py")
PREVIOUS_CLIENT = Path(sys.prefix) / "openai-previous"  # made by `make install`
SESSION_TIMEOUT_S = 250


WEBHOOKS = {"NIGHTSHIFT_WEBHOOKS": "true", "NIGHTSHIFT_WEBHOOK_PRIVATE_ADDRESSES": "true"}


@pytest.mark.parametrize("packages", [None, PREVIOUS_CLIENT], ids=["newest", "previous"])
def test_a_users_program_runs_unchanged(demo_console: Console, packages: Path | None) -> None:
    console = replace(demo_console, settings={**demo_console.settings, **WEBHOOKS})
    with (
        live_server(console) as server,
        live_worker(console, server),
        losing(server.url, "/v1/batches") as lossy,
    ):
        shown = run_session(packages, f"{server.url}/v1", f"{lossy.url}/v1")
    assert [call.headers["x-stainless-retry-count"] for call in lossy.calls] == ["0", "1"]
    versions = {line.rpartition(" ")[2].partition(".")[0] for line in shown.splitlines()}
    assert versions == {"3" if packages is None else "2"}
    assert len(shown.splitlines()) == 7


def run_session(packages: Path | None, *base_urls: str) -> str:
    """What the program printed; fails with its traceback."""
    environment = dict(os.environ)
    if packages is not None:
        assert packages.is_dir(), "the previous client is not installed: `make install`"
        environment["PYTHONPATH"] = str(packages)
    ended = subprocess.run(
        [sys.executable, str(SESSION), *base_urls, str(PROMPTS)],
        env=environment,
        cwd=PROJECT.parent,
        capture_output=True,
        text=True,
        timeout=SESSION_TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout
