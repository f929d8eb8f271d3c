"""The official `openai` client, unmodified, against a real server and a real worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.live import live_server, live_worker
from tests.cli.console import Console
from tests.cli.demo import PROMPTS

PROJECT = Path(__file__).resolve().parents[2]
SESSION = Path(__file__).with_name("client_session.py")
PREVIOUS_CLIENT = Path(sys.prefix) / "openai-previous"  # made by `make install`
SESSION_TIMEOUT_S = 250


@pytest.mark.parametrize("packages", [None, PREVIOUS_CLIENT], ids=["newest", "previous"])
def test_a_users_program_runs_unchanged(demo_console: Console, packages: Path | None) -> None:
    with live_server(demo_console) as server, live_worker(demo_console, server):
        shown = run_session(f"{server.url}/v1", packages)
    versions = {line.rpartition(" ")[2].partition(".")[0] for line in shown.splitlines()}
    assert versions == {"3" if packages is None else "2"}
    assert len(shown.splitlines()) == 5


def run_session(base_url: str, packages: Path | None) -> str:
    """What the program printed; fails with its traceback."""
    environment = dict(os.environ)
    if packages is not None:
        assert packages.is_dir(), "the previous client is not installed: `make install`"
        environment["PYTHONPATH"] = str(packages)
    ended = subprocess.run(
        [sys.executable, str(SESSION), base_url, str(PROMPTS)],
        env=environment,
        cwd=PROJECT.parent,
        capture_output=True,
        text=True,
        timeout=SESSION_TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout
