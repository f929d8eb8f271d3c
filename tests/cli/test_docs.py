"""The page about the command line is what the commands themselves say."""

from __future__ import annotations

from tools.write_cli_docs import PAGE, render


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m tools.write_cli_docs"


def test_every_exit_code_is_documented() -> None:
    page = render()
    for code in (0, 1, 2, 3, 4, 5, 6, 7, 130):
        assert f"| {code} |" in page
