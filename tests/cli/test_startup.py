"""The command starts fast because it imports nothing heavy before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "sqlalchemy", "celery", "rich", "alembic", "redis", "httpx2")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["model", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from cli.__main__ import main\n"
        f"code = main({arguments!r})\n"
        f"print(code, [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr.strip() == "0 []"
    assert ended.stdout.startswith("Usage: nightshift")


def test_module_and_console_script_are_the_same_command() -> None:
    by_module = subprocess.run(
        [sys.executable, "-m", "cli", "--version"], capture_output=True, text=True, check=True
    )
    assert by_module.stdout.startswith("nightshift ")
