"""Numbers, tables and progress as people read them."""

from __future__ import annotations

import io
import re

import pytest

from cli.display import format_bytes, format_seconds, print_pairs, print_table, shorten
from cli.progress import ModelProgress, PlainProgress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (8.44, "8.4 s"), (59.7, "59.7 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_seconds_are_told_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (7_400_000, "7.4 MB"), (2 * 10**15, "2000.0 TB")],
)
def test_bytes_are_told_in_the_unit_that_fits(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_a_table_puts_numbers_to_the_right_and_has_no_trailing_blanks() -> None:
    stream = io.StringIO()
    print_table(("NAME", "DONE"), [("a", "7"), ("longer", "1200")], stream=stream)
    assert stream.getvalue() == "NAME    DONE\na          7\nlonger  1200\n"


def test_pairs_line_up() -> None:
    stream = io.StringIO()
    print_pairs([("a", "1"), ("long", "")], stream=stream)
    assert stream.getvalue() == "a     1\nlong\n"


def test_shortening_keeps_one_line_of_at_most_the_width() -> None:
    assert shorten("a\nb  c", 10) == "a b c"
    assert shorten("x" * 20, 10) == "x" * 9 + "…"


def test_plain_progress_tells_each_stage_once_within_its_period(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = iter(range(0, 100, 2))
    with PlainProgress(period_s=1000, clock=lambda: float(next(clock))) as display:
        display.update(done=2, total=10, output_tokens=0, stage="loading")
        display.update(done=2, total=10, output_tokens=0, stage="generating")
        display.update(done=6, total=10, output_tokens=120, stage="generating")
        display.update(done=10, total=10, output_tokens=180, stage="finalizing")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["loading: 2 of 10 requests", "generating: 2 of 10 requests"]
    assert lines[2].startswith("finalizing: 10 of 10 requests, ")
    assert len(lines) == 3


def test_speed_and_time_left_are_measured_on_this_runs_own_requests(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now_s = [0.0]
    with PlainProgress(period_s=0, clock=lambda: now_s[0]) as display:
        display.update(done=2, total=10, output_tokens=1000, stage="loading")
        now_s[0] = 100.0
        display.update(done=2, total=10, output_tokens=1000, stage="generating")
        now_s[0] = 110.0
        display.update(done=6, total=10, output_tokens=1200, stage="generating")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "generating: 6 of 10 requests, 20 tokens/s, about 10.0 s left"


def test_quantizing_is_told_at_every_quarter_and_not_when_nothing_is_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ModelProgress("quantizing") as progress:
        for done in range(1, 9):
            progress.update(done, 8)
    *lines, last = capsys.readouterr().err.splitlines()
    assert lines == [f"quantizing: {done} of 8 tensors" for done in (2, 4, 6, 8)]
    assert re.fullmatch(r"quantizing took \d.* and \d.*B of memory", last)
    with ModelProgress("quantizing"):
        pass
    assert capsys.readouterr().err == ""
