"""docs/input-formats.md: every example on the page is read by the real reader."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wire.files import accepted, read, refused

PAGE = Path(__file__).parents[2] / "docs" / "input-formats.md"
FENCE = re.compile(r"^```(.+?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENDINGS = {"jsonl": ".jsonl", "text": ".txt", "csv": ".csv"}


def examples() -> Iterator[tuple[str, str]]:
    """The kind and the text of every fenced example."""
    for found in FENCE.finditer(PAGE.read_text(encoding="utf-8")):
        yield found.group(1), found.group(2)


def test_the_page_has_an_example_of_every_text_form() -> None:
    assert {kind for kind, _ in examples()} == {*ENDINGS, "jsonl refused", "text refused"}


@pytest.mark.parametrize(("kind", "text"), [e for e in examples() if e[0] in ENDINGS])
def test_every_example_is_accepted(tmp_path: Path, kind: str, text: str) -> None:
    path = tmp_path / f"in{ENDINGS[kind]}"
    path.write_text(text, encoding="utf-8")
    found = [accepted(line) for line in read(path)]
    assert len(found) >= 2


def test_every_refused_example_gives_the_message_beside_it(tmp_path: Path) -> None:
    pairs = dict(examples())
    path = tmp_path / "in.jsonl"
    path.write_text(pairs["jsonl refused"] + '{"prompt": "runs"}\n', encoding="utf-8")
    *bad, last = read(path)
    assert [refused(line).refusal.message for line in bad] == pairs["text refused"].splitlines()
    accepted(last)
