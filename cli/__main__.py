"""The process `nightshift`: every way in which a command can end becomes an exit code.

Nothing is decided here but how an error is told: one sentence on stderr.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from models.errors import NightshiftError

INTERRUPTED = 130
USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    from cli.app import build_command

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # data has one encoding, whatever the locale
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = build_command()
        with command.make_context("nightshift", given) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as exc:
        return exc.exit_code
    except TyperException as exc:
        return _tell(f"{exc.format_message()} (`--help` shows what can be given)", USAGE)
    except NightshiftError as exc:
        return _tell_error(exc)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_went_away()
    except Exception as exc:
        return _tell_unexpected(exc)
    return 0


def _tell(sentence: str, code: int) -> int:
    print(f"nightshift: {' '.join(sentence.split())}", file=sys.stderr)  # noqa: T201
    return code


def _tell_error(exc: NightshiftError) -> int:
    _print_traceback_when_debugging()
    return _tell(str(exc), exc.exit_code)


def _tell_unexpected(exc: Exception) -> int:
    _print_traceback_when_debugging()
    what = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
    return _tell(f"{what}; set NIGHTSHIFT_LOG_LEVEL=debug to see where this comes from", 1)


def _print_traceback_when_debugging() -> None:
    variable = os.environ.get("NIGHTSHIFT_LOG_LEVEL", "")
    if variable.lower() == "debug" or logging.getLogger().isEnabledFor(logging.DEBUG):
        traceback.print_exc()


def _reader_went_away() -> int:
    """`nightshift results … | head`: the reader has what it wanted, so this is no error.

    stdout is pointed at /dev/null, because the interpreter flushes it once more while it ends.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
