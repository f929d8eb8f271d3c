"""The leases that this process holds, and where each of their requests stands.

The runner's thread owns all of it; the lease keeper's thread only moves deadlines and sets flags.
Must not know SQL or the engine.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from models.store.views import Lease, Outcome, QueuedRequest


@dataclass(eq=False, slots=True)
class HeldLease:
    """One lease. `deadline` is on this process's monotonic clock: past it nothing is written.

    Requests go from `waiting` to `running` (given to the engine) to `finished` (not committed).
    """

    lease: Lease
    deadline: float
    claimed_at: float
    waiting: deque[QueuedRequest]
    running: dict[int, QueuedRequest] = field(default_factory=dict)
    finished: list[Outcome] = field(default_factory=list)
    lost: bool = False
    cancelled: bool = False

    def usable(self, now: float) -> bool:
        """Whether results may still be written under the lease."""
        return not self.lost and now < self.deadline

    def extend(self, deadline: float) -> None:
        """Move the deadline later, never earlier: renewals and commits may overtake each other."""
        self.deadline = max(self.deadline, deadline)

    @property
    def is_complete(self) -> bool:
        """Whether the engine has nothing more to do for this lease."""
        return not self.waiting and not self.running

    def key(self, idx: int) -> str:
        """The name of a request towards the engine; the epoch keeps a redo apart."""
        return f"{self.lease.chunk_id}.{self.lease.epoch}.{idx}"

    def running_keys(self) -> tuple[str, ...]:
        """The names of the requests that the engine works on."""
        return tuple(self.key(idx) for idx in self.running)


class LeaseBook:
    """All held leases, by chunk and epoch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[int, int], HeldLease] = {}

    def add(self, held: HeldLease) -> None:
        with self._lock:
            self._held[held.lease.chunk_id, held.lease.epoch] = held

    def forget(self, held: HeldLease) -> None:
        with self._lock:
            self._held.pop((held.lease.chunk_id, held.lease.epoch), None)

    def all(self) -> list[HeldLease]:
        """A copy that stays valid while leases come and go."""
        with self._lock:
            return list(self._held.values())

    def find(self, key: str) -> tuple[HeldLease, int] | None:
        """The lease and index of an engine's key; None when the lease is gone."""
        chunk_id, epoch, idx = (int(part) for part in key.split("."))
        held = self._held.get((chunk_id, epoch))
        return None if held is None else (held, idx)

    def cancel(self, batch_id: str) -> None:
        """Note for all leases of the batch that its answers are no longer wanted."""
        for held in self.all():
            held.cancelled = held.cancelled or held.lease.batch_id == batch_id

    @property
    def leases(self) -> set[tuple[int, int]]:
        """Chunk and epoch of every lease."""
        with self._lock:
            return set(self._held)

    def holds(self, chunk_id: int) -> bool:
        """Whether any lease on the chunk is held."""
        return any(held.lease.chunk_id == chunk_id for held in self.all())

    def __len__(self) -> int:
        return len(self._held)

    @property
    def unfinished(self) -> int:
        """Requests without an outcome, given to the engine or waiting for it."""
        return sum(len(held.waiting) + len(held.running) for held in self.all())

    @property
    def uncommitted(self) -> int:
        """Finished requests that are not in the database yet."""
        return sum(len(held.finished) for held in self.all())


def all_running_keys(leases: Iterable[HeldLease]) -> tuple[str, ...]:
    """The engine's names of everything that runs under these leases."""
    return tuple(key for held in leases for key in held.running_keys())
