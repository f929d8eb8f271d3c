"""Reads the project's Markdown: links, commands in code, headings; tests/test_project.py judges."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", flags=re.MULTILINE)


def markdown_files(root: Path = ROOT) -> list[Path]:
    """Every document of the project."""
    return sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md")])


def broken_links(document: Path) -> list[str]:
    """Relative links of the document that lead nowhere; addresses on the web are not looked at."""
    text = _FENCE.sub("", document.read_text(encoding="utf-8"))
    return [link for link in _LINK.findall(text) if not _leads_somewhere(document, link)]


def shell_blocks(document: Path) -> list[list[str]]:
    """The command lines of each block marked `sh`, without comments, continuations joined."""
    blocks = _FENCE.findall(document.read_text(encoding="utf-8"))
    return [_command_lines(body) for language, body in blocks if language == "sh"]


def code_blocks(document: Path, language: str) -> list[str]:
    """The text of each block marked with the language."""
    blocks = _FENCE.findall(document.read_text(encoding="utf-8"))
    return [body.strip() for marked, body in blocks if marked == language]


def commands(document: Path) -> Iterator[list[str]]:
    """Every command of shell blocks and of inline code, split into words.

    Inline code that starts with no known program is not a command and is left out.
    """
    text = document.read_text(encoding="utf-8")
    for block in shell_blocks(document):
        yield from (shlex.split(line) for line in block)
    for code in _INLINE.findall(_FENCE.sub("", text)):
        if code.split()[0] in ("make", "nightshift") and "…" not in code:
            yield shlex.split(code)


def named_tests(document: Path) -> set[str]:
    """Tests in inline code: `tests/FILE.py`, or `tests/FILE.py::NAME`."""
    text = _FENCE.sub("", document.read_text(encoding="utf-8"))
    return {code for code in _INLINE.findall(text) if re.match(r"tests/\S+\.py", code)}


def is_test(name: str, root: Path = ROOT) -> bool:
    """Whether the file is there, and has a function of that name if one is given."""
    file, _, function = name.partition("::")
    path = root / file
    return path.is_file() and (not function or f"def {function}(" in path.read_text())


def _command_lines(body: str) -> list[str]:
    joined = body.replace("\\\n", " ")
    stripped = (re.sub(r"(^|\s+)#\s.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in stripped if line]


def _leads_somewhere(document: Path, link: str) -> bool:
    if re.match(r"[a-z]+:", link):
        return True
    name, _, anchor = link.partition("#")
    target = document.parent / name if name else document
    if not target.exists():
        return False
    return not anchor or anchor in _anchors(target)


def _anchors(document: Path) -> set[str]:
    headings = _HEADING.findall(document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
