"""Every way in which a command can end becomes an exit code and at most one sentence."""

from __future__ import annotations

import os
import subprocess
from typing import NoReturn

import pytest

from cli.__main__ import main
from models.errors import NotFoundError, StorageFull
from tests.cli.console import Console, command_line


def _raise(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the command tree raise instead of coming into being."""

    def broken() -> NoReturn:
        raise error

    monkeypatch.setattr("cli.app.build_command", broken)


@pytest.mark.parametrize(
    ("error", "code"),
    [(NotFoundError("no such batch;\n list them"), 3), (StorageFull("free some"), 7)],
)
def test_an_error_of_ours_is_one_sentence_and_its_own_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
) -> None:
    _raise(monkeypatch, error)
    assert main([]) == code
    assert capsys.readouterr().err == f"nightshift: {' '.join(str(error).split())}\n"


def test_an_unexpected_error_tells_how_to_see_where_it_comes_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _raise(monkeypatch, ZeroDivisionError("by zero"))
    assert main([]) == 1
    told = capsys.readouterr().err
    assert told.startswith("nightshift: ZeroDivisionError: by zero; ")
    assert "NIGHTSHIFT_LOG_LEVEL=debug" in told
    assert "Traceback" not in told

    monkeypatch.setenv("NIGHTSHIFT_LOG_LEVEL", "debug")
    assert main([]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_130_without_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _raise(monkeypatch, KeyboardInterrupt())
    assert main([]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run"],
        ["status", "--nonsense"],
        ["status", "--watch"],
        ["model", "add", "x", "--weights", "int3"],
    ],
)
def test_wrong_usage_is_2_and_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert "--help" in told.err


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("Usage: nightshift")


def test_a_reader_that_went_away_is_no_error(console: Console) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        command_line("--help"),
        env=console.environment(),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")
