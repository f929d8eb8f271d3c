"""The state machines of batch and chunk: one enum and one transition table each.

`docs/states.md` draws them; a test compares the drawing with these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar

from models.errors import StateError


class BatchState(StrEnum):
    """Where a batch stands; the names are those of the OpenAI Batch API."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class ChunkState(StrEnum):
    """Where a chunk stands."""

    PENDING = "pending"
    DISPATCHED = "dispatched"
    LEASED = "leased"
    DONE = "done"
    QUARANTINED = "quarantined"
    CANCELLED = "cancelled"


class ResultStatus(StrEnum):
    """How a request ended: there is one result row per request, ever."""

    OK = "ok"
    ERROR = "error"


class AttemptOutcome(StrEnum):
    """How one lease of a chunk ended; an attempt still running has none."""

    DONE = "done"
    RELEASED = "released"
    CRASHED = "crashed"
    LOST = "lost"


State = TypeVar("State", BatchState, ChunkState)

BATCH_TRANSITIONS: Mapping[BatchState, frozenset[BatchState]] = MappingProxyType(
    {
        BatchState.VALIDATING: frozenset(
            {BatchState.FAILED, BatchState.IN_PROGRESS, BatchState.CANCELLING}
        ),
        BatchState.IN_PROGRESS: frozenset(
            {BatchState.FINALIZING, BatchState.CANCELLING, BatchState.EXPIRED}
        ),
        BatchState.FINALIZING: frozenset({BatchState.COMPLETED}),
        BatchState.CANCELLING: frozenset({BatchState.CANCELLED}),
        BatchState.FAILED: frozenset(),
        BatchState.COMPLETED: frozenset(),
        BatchState.CANCELLED: frozenset(),
        BatchState.EXPIRED: frozenset(),
    }
)

CHUNK_TRANSITIONS: Mapping[ChunkState, frozenset[ChunkState]] = MappingProxyType(
    {
        ChunkState.PENDING: frozenset(
            {ChunkState.DISPATCHED, ChunkState.LEASED, ChunkState.CANCELLED}
        ),
        ChunkState.DISPATCHED: frozenset(
            {ChunkState.PENDING, ChunkState.LEASED, ChunkState.CANCELLED}
        ),
        ChunkState.LEASED: frozenset(
            {
                ChunkState.LEASED,  # a claim over an expired lease
                ChunkState.PENDING,
                ChunkState.DONE,
                ChunkState.QUARANTINED,
                ChunkState.CANCELLED,
            }
        ),
        ChunkState.DONE: frozenset(),
        ChunkState.QUARANTINED: frozenset(),
        ChunkState.CANCELLED: frozenset(),
    }
)


def is_terminal(state: BatchState | ChunkState) -> bool:
    """Whether the state is final: terminal states never change."""
    return not _targets(state)


def check_transition(current: State, target: State) -> None:
    """Raise StateError unless `current → target` is an edge of the machine."""
    if target not in _targets(current):
        kind = "batch" if isinstance(current, BatchState) else "chunk"
        raise StateError(f"a {kind} that is {current} cannot become {target}")


def sources(target: BatchState | ChunkState) -> tuple[str, ...]:
    """The states from which `target` can be reached: the WHERE of every update to it."""
    table: Mapping[BatchState, frozenset[BatchState]] | Mapping[ChunkState, frozenset[ChunkState]]
    table = BATCH_TRANSITIONS if isinstance(target, BatchState) else CHUNK_TRANSITIONS
    return tuple(str(state) for state, targets in table.items() if target in targets)


def _targets(state: BatchState | ChunkState) -> frozenset[BatchState] | frozenset[ChunkState]:
    if isinstance(state, BatchState):
        return BATCH_TRANSITIONS[state]
    return CHUNK_TRANSITIONS[state]
