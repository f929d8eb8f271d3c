"""docs/reliability.md is complete: every promise and fault has its tests, every test its place."""

from __future__ import annotations

import re

import pytest

from tests.documents import ROOT, named_tests

DOCUMENT = ROOT / "docs" / "reliability.md"
# Tests of faults; the other files here test the tools that make them.
OF_FAULTS = ("worker_faults", "redis_faults", "database_faults", "submit_faults", "full_disk")
OF_PROMISES = "promises"
N_PROMISES = 10
N_FAULTS = 23
ABOUT_TOOLS = {
    "test_a_failpoint_must_exist",
    "test_nothing_runs_after_a_failpoint_that_pauses",
}


def rows(first: str) -> list[str]:
    """Lines of the tables whose first cell is like that."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if re.match(rf"\| {first} \|", line)]


def test_every_promise_and_every_fault_has_a_row_with_a_test() -> None:
    promises, faults = rows(r"P\d+"), rows(r"\d+")
    assert len(promises) == N_PROMISES
    assert len(faults) == N_FAULTS
    assert [row for row in [*promises, *faults] if "tests/" not in row and "P10" not in row] == []


@pytest.mark.parametrize("name", [*OF_FAULTS, OF_PROMISES])
def test_every_test_of_a_fault_is_in_the_document(name: str) -> None:
    file = f"tests/faults/test_{name}.py"
    functions = re.findall(r"^def (test_\w+)", (ROOT / file).read_text(), flags=re.MULTILINE)
    named = named_tests(DOCUMENT)
    missing = {f for f in functions if f"{file}::{f}" not in named} - ABOUT_TOOLS
    assert functions
    assert missing == set()
