"""Every threat in docs/security.md has tests; that they exist is checked for every document."""

from __future__ import annotations

import re

from tests.documents import ROOT

_ROW = re.compile(r"^\| (?!threat|-)(.+?) \| (.+?) \| (.+?) \|$", flags=re.MULTILINE)
_TEST = re.compile(r"`tests/[\w/]+\.py::test_\w+`(<br>)?")


def test_every_threat_has_tests_and_nothing_but_tests_beside_it() -> None:
    found = _ROW.findall((ROOT / "docs/security.md").read_text(encoding="utf-8"))
    assert len(found) >= 15
    for threat, _, shown_by in found:
        assert _TEST.sub("", shown_by) == "", threat
