"""Every edge of the two state machines, allowed and forbidden, in code and as SQL."""

from __future__ import annotations

import ast
from itertools import product
from pathlib import Path

import pytest
from sqlalchemy import Update
from sqlalchemy.engine import make_url

from models.errors import StateError
from models.states import (
    BATCH_TRANSITIONS,
    CHUNK_TRANSITIONS,
    BatchState,
    ChunkState,
    check_transition,
    is_terminal,
    sources,
)
from models.store import transitions
from models.store.transitions import move_batches, move_chunks

BATCH_EDGES = {
    ("validating", "failed"),
    ("validating", "in_progress"),
    ("validating", "cancelling"),
    ("in_progress", "finalizing"),
    ("in_progress", "cancelling"),
    ("in_progress", "expired"),
    ("finalizing", "completed"),
    ("cancelling", "cancelled"),
}
CHUNK_EDGES = {
    ("pending", "dispatched"),
    ("pending", "leased"),
    ("pending", "cancelled"),
    ("dispatched", "pending"),
    ("dispatched", "leased"),
    ("dispatched", "cancelled"),
    ("leased", "leased"),
    ("leased", "pending"),
    ("leased", "done"),
    ("leased", "quarantined"),
    ("leased", "cancelled"),
}
BATCH_PAIRS = list(product(BatchState, repeat=2))
CHUNK_PAIRS = list(product(ChunkState, repeat=2))


def states_in_where(statement: Update) -> set[str]:
    """The states that the statement lets through."""
    compiled = statement.compile(dialect=make_url("postgresql://").get_dialect()())
    return set(compiled.params["state_1"])


@pytest.mark.parametrize(("current", "target"), BATCH_PAIRS)
def test_a_batch_moves_along_its_edges_alone(current: BatchState, target: BatchState) -> None:
    if (current, target) in BATCH_EDGES:
        check_transition(current, target)
    else:
        with pytest.raises(StateError, match=f"a batch that is {current} cannot become {target}"):
            check_transition(current, target)


@pytest.mark.parametrize(("current", "target"), CHUNK_PAIRS)
def test_a_chunk_moves_along_its_edges_alone(current: ChunkState, target: ChunkState) -> None:
    if (current, target) in CHUNK_EDGES:
        check_transition(current, target)
    else:
        with pytest.raises(StateError, match=f"a chunk that is {current} cannot become {target}"):
            check_transition(current, target)


@pytest.mark.parametrize("target", BatchState)
def test_sql_moves_batches_along_the_same_edges(target: BatchState) -> None:
    expected = {source for source, to in BATCH_EDGES if to == target}
    assert set(sources(target)) == expected
    if target is not BatchState.VALIDATING:  # batches begin there, nothing leads to it
        assert states_in_where(move_batches(target)) == expected


@pytest.mark.parametrize("target", ChunkState)
def test_sql_moves_chunks_along_the_same_edges(target: ChunkState) -> None:
    expected = {source for source, to in CHUNK_EDGES if to == target}
    assert set(sources(target)) == expected
    assert states_in_where(move_chunks(target)) == expected


def test_terminal_states_have_no_way_out() -> None:
    terminal = {state for state in (*BatchState, *ChunkState) if is_terminal(state)}
    assert terminal == {
        BatchState.FAILED,
        BatchState.COMPLETED,
        BatchState.CANCELLED,
        BatchState.EXPIRED,
        ChunkState.DONE,
        ChunkState.QUARANTINED,
        ChunkState.CANCELLED,
    }


def test_every_state_is_in_its_table() -> None:
    assert set(BATCH_TRANSITIONS) == set(BatchState)
    assert set(CHUNK_TRANSITIONS) == set(ChunkState)


def test_only_one_module_of_the_store_writes_states() -> None:
    """An UPDATE with `state=…` elsewhere would go around the tables."""
    writers = {
        module.name
        for module in Path(transitions.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "values"
        if any(keyword.arg == "state" for keyword in node.keywords)
    }
    assert writers == {"transitions.py"}
