"""`docs/security.md` names tests for each threat, and they exist."""

from __future__ import annotations

import ast
import re

from tests.documents import ROOT

_ROW = re.compile(r"^\| (?!threat|-)(.+?) \| (.+?) \| (.+?) \|$", flags=re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_threat_has_tests_that_exist() -> None:
    found = _ROW.findall((ROOT / "docs/security.md").read_text(encoding="utf-8"))
    assert len(found) >= 15
    for threat, _, shown_by in found:
        assert _TEST.sub("", shown_by).replace("<br>", "") == "", threat
        assert missing(shown_by) == [], threat


def test_a_test_that_does_not_exist_is_found() -> None:
    here = "`tests/security/test_document.py::test_a_test_that_does_not_exist_is_found`"
    gone = "`tests/security/test_document.py::test_gone`<br>`tests/gone.py::test_x`"
    assert missing(f"{here}<br>{gone}") == ["test_gone", "test_x"]


def missing(text: str) -> list[str]:
    """The tests named in the text that their file has not."""
    return [name for path, name in _TEST.findall(text) if name not in functions(path)]


def functions(path: str) -> set[str]:
    file = ROOT / path
    tree = ast.parse(file.read_text(encoding="utf-8") if file.is_file() else "")
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
