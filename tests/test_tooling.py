"""The development tools are configured, agree with each other, and notice what they are for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from tests.documents import ROOT

PROGRAMS = Path(sys.executable).parent
HOOKS = ROOT / ".pre-commit-config.yaml"


def run_tool(*words: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_commit_hooks_are_valid_and_need_no_network() -> None:
    done = run_tool(PROGRAMS / "pre-commit", "validate-config", HOOKS)
    assert done.returncode == 0, done.stderr
    assert {repository["repo"] for repository in yaml.safe_load(HOOKS.read_text())["repos"]} == {
        "local"
    }


def test_the_commit_hooks_check_the_same_code_as_make_lint() -> None:
    code = next(
        line.partition(":= ")[2]
        for line in (ROOT / "Makefile").read_text().splitlines()
        if line.startswith("CODE := ")
    )
    hooks = {hook["id"]: hook for hook in yaml.safe_load(HOOKS.read_text())["repos"][0]["hooks"]}
    assert hooks["mypy"]["entry"] == f".venv/bin/mypy {code}"


def test_code_without_types_docstring_or_future_import_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def double(x):\n    print(x)\n    return x * 2\n")
    configuration = ROOT / "pyproject.toml"
    lint = run_tool(PROGRAMS / "ruff", "check", "--config", configuration, bad, cwd=tmp_path)
    assert {"D100", "I002", "T201"} <= set(lint.stdout.split())
    types = run_tool(
        PROGRAMS / "mypy",
        "--config-file",
        configuration,
        "--cache-dir",
        tmp_path,
        bad,
        cwd=tmp_path,
    )
    assert "no-untyped-def" in types.stdout
