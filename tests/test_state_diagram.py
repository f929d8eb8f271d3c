"""The drawings in docs/states.md are the tables in models/states.py, edge by edge."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from models.states import BATCH_TRANSITIONS, CHUNK_TRANSITIONS

DOCUMENT = Path(__file__).parents[1] / "docs" / "states.md"
EDGE = re.compile(r"^\s*(\[\*\]|\w+) --> (\[\*\]|\w+)(?:: \S.*)?$")
OUTSIDE = "[*]"

Transitions = Mapping[str, frozenset[str]]
Edges = list[tuple[str, str]]


def drawn_edges(heading: str) -> Edges:
    """The edges of the diagram under that heading; every line of it must be understood."""
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    diagram = section.split("```mermaid\nstateDiagram-v2\n")[1].split("```")[0]
    edges = []
    for line in diagram.splitlines():
        match = EDGE.match(line)
        assert match is not None, line
        edges.append((match[1], match[2]))
    return edges


@pytest.mark.parametrize(
    ("heading", "transitions", "first"),
    [("Batch", BATCH_TRANSITIONS, "validating"), ("Chunk", CHUNK_TRANSITIONS, "pending")],
)
def test_the_drawing_is_the_table(heading: str, transitions: Transitions, first: str) -> None:
    expected: Edges = [(OUTSIDE, first)]
    for state, targets in transitions.items():
        expected += [(str(state), str(target)) for target in targets or {OUTSIDE}]
    assert sorted(drawn_edges(heading)) == sorted(expected)
