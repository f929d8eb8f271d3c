"""Write docs/cli.md from the commands' own help and the error classes' exit codes.

    python -m tools.write_cli_docs

A test compares the file with what this would write.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cli.__main__ import INTERRUPTED, USAGE
from cli.app import build_command
from models import errors
from models.errors import NightshiftError

if TYPE_CHECKING:
    from typer._click.core import Command, Context

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
WIDTH = 96

_INTRODUCTION = """# Command line

`nightshift` and `python -m cli` are the same. Data goes to stdout, words and progress to stderr.
Commands that a script reads take `--json`. This page is written by
`python -m tools.write_cli_docs` from the commands' own help.
"""


def render() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, _exit_codes()]
    for path, text in _helps(build_command(), "nightshift", None):
        parts.append(f"## {path}\n\n```text\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def _exit_codes() -> str:
    rows = [
        ("0", "done"),
        ("1", "an error without a code of its own, also an unexpected one"),
        *((str(code), _first_sentence(kind)) for code, kind in sorted(_coded_errors().items())),
        (str(INTERRUPTED), "interrupted by Ctrl-C or SIGTERM; `run` resumes when run again"),
    ]
    lines = [f"| {code} | {meaning} |" for code, meaning in rows]
    note = f"Wrong usage of a command also ends with {USAGE}."
    return "\n".join(["## Exit codes", "", "| code | meaning |", "|---|---|", *lines, "", note, ""])


def _coded_errors() -> dict[int, type[NightshiftError]]:
    """The topmost error class of every exit code that is not 1."""
    coded: dict[int, type[NightshiftError]] = {}
    for _, kind in inspect.getmembers(errors, _is_coded):
        coded[kind.exit_code] = kind
    return coded


def _is_coded(value: object) -> bool:
    """Whether it is an error class that has an exit code of its own."""
    if not isinstance(value, type) or not issubclass(value, NightshiftError):
        return False
    return "exit_code" in vars(value) and value.exit_code != NightshiftError.exit_code


def _first_sentence(kind: type[NightshiftError]) -> str:
    return f"{(kind.__doc__ or '').split('.')[0]} (`{kind.__name__}`)"


def _helps(command: Command, path: str, parent: Context | None) -> Iterator[tuple[str, str]]:
    """Path and help of the command and of everything below it."""
    context = command.make_context(
        path.rpartition(" ")[2] if parent else path,
        [],
        parent=parent,
        resilient_parsing=True,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
    )
    yield path, command.get_help(context)
    for name, child in getattr(command, "commands", {}).items():
        yield from _helps(child, f"{path} {name}", context)


def main() -> None:
    """Write the page."""
    os.environ["NO_COLOR"] = "1"
    PAGE.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
