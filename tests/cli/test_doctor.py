"""The doctor finds what works and what does not."""

from __future__ import annotations

import json

from tests.cli.console import Console


def test_a_machine_that_can_run_is_told_so(console: Console) -> None:
    report = json.loads(console.succeed("doctor", "--json"))
    assert report["usable"] is True
    names = [check["name"] for check in report["checks"]]
    assert names == [
        "python",
        "packages",
        "processor",
        "int8 kernel",
        "memory",
        "home",
        "compiled kernels",
        "redis",
        "database",
        "models",
    ]
    assert report["settings"]["NIGHTSHIFT_HOME"] == str(console.home)
    assert report["settings"]["NIGHTSHIFT_LEASE_TTL_S"] == "90 (default)"


def test_servers_that_are_away_are_named_without_any_secret(console: Console) -> None:
    ended = Console(console.home, {"NIGHTSHIFT_API_KEY": "secret"}).run(
        "--broker-url",
        "redis://u:secret@127.0.0.1:1/0",
        "--database-url",
        "postgresql://u:secret@127.0.0.1:1/x",
        "doctor",
    )
    assert ended.returncode == 4
    failed = [line.split()[1] for line in ended.stdout.splitlines() if line.startswith("FAIL")]
    assert failed == ["redis", "database"]
    assert "secret" not in ended.stdout + ended.stderr


def test_an_unknown_variable_is_a_finding(console: Console) -> None:
    ended = Console(console.home, {"NIGHTSHIFT_NONSENSE": "1"}).run("doctor")
    assert ended.returncode == 2
    assert "NIGHTSHIFT_NONSENSE" in ended.stdout
