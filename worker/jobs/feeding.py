"""Hands requests to the engine and takes its answers back; the only place that does.

Requests of a chunk that has crashed an engine before run without company, and on its last chance
one at a time, each noted in the database first: then a further crash, or the death of this whole
worker, says which request is to blame.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from models.settings import Settings
from models.store.views import Outcome, QueuedRequest
from worker.backends.messages import Add, Cancel, Delta, Finished, Progress
from worker.jobs.committer import Committer
from worker.jobs.held import HeldLease, LeaseBook, all_running_keys
from worker.jobs.pace import Pace
from worker.jobs.supervisor import EngineSupervisor

_MOST_AHEAD = 4  # times what runs at once: what one worker holds, others cannot take
_QUIET_TIMEOUT_S = 3.0  # a step of the engine ends within this, unless something is wrong


class Feeder:
    """The traffic between the book and the engine."""

    def __init__(
        self,
        book: LeaseBook,
        *,
        supervisor: EngineSupervisor,
        committer: Committer,
        settings: Settings,
    ) -> None:
        self._book = book
        self._supervisor = supervisor
        self._committer = committer
        self._settings = settings
        self._pace = Pace()

    @property
    def low_water(self) -> int:
        """Unfinished requests below which the engine could run dry before more are claimed.

        A quarter more than run at once; of short ones what finishes during a slow commit.
        """
        at_once = self._settings.max_sequences
        return max(at_once * 5 // 4, min(self._pace.recent, at_once * _MOST_AHEAD))

    def feed(self) -> None:
        """Give the engine every waiting request that may run now.

        None while results cannot be written: what is uncommitted stays what the engine has at most.
        """
        if self._committer.is_behind:
            return
        for held in self._book.all():
            room = min(self._room(held), len(held.waiting))
            if room > 0 and self._may_start(held):
                self._send(held, [held.waiting.popleft() for _ in range(room)])

    def collect(self, timeout_s: float) -> None:
        """Wait for answers up to the timeout and note them; raises EngineError."""
        events = self._supervisor.engine.receive(timeout_s)
        if not events:
            self._supervisor.check()
        for event in events:
            self._note(event)
        self._pace.note(sum(isinstance(event, Finished) for event in events))

    def cancel(self, held: HeldLease) -> None:
        """Take back the lease's requests; answers that were on their way are ignored."""
        keys = held.running_keys()
        held.waiting.clear()
        held.running.clear()
        if keys:
            self._supervisor.engine.send(Cancel(keys=keys))

    def quiet(self) -> None:
        """Stop all running requests, noting those that finish meanwhile."""
        self._supervisor.engine.send(Cancel(keys=all_running_keys(self._book.all())))
        deadline = time.monotonic() + _QUIET_TIMEOUT_S
        while (left_s := deadline - time.monotonic()) > 0:
            for event in self._supervisor.engine.receive(left_s):
                self._note(event)
                if isinstance(event, Progress) and event.running + event.waiting == 0:
                    return

    def is_suspect(self, held: HeldLease) -> bool:
        """Whether the chunk was in an engine that crashed; interrupted attempts do not count."""
        return held.lease.attempt > 1

    def is_last_chance(self, held: HeldLease) -> bool:
        """Whether one more crash would give the whole chunk up."""
        return self.is_suspect(held) and held.lease.attempt >= self._settings.max_crashes

    def _room(self, held: HeldLease) -> int:
        others_run = any(other.running for other in self._book.all() if other is not held)
        suspects_run = any(
            other.running and self.is_suspect(other)
            for other in self._book.all()
            if other is not held
        )
        if suspects_run or (self.is_suspect(held) and others_run):
            return 0
        return 1 - len(held.running) if self.is_last_chance(held) else len(held.waiting)

    def _may_start(self, held: HeldLease) -> bool:
        """Whether the next request of the lease may go; False while it cannot be noted."""
        if not self.is_last_chance(held):
            return True
        return self._committer.note_running(held, held.waiting[0].idx)

    def _send(self, held: HeldLease, requests: Sequence[QueuedRequest]) -> None:
        adds = [
            Add(
                key=held.key(request.idx),
                prompt=request.prompt,
                params=request.params,
                seed=request.seed,
            )
            for request in requests
        ]
        self._supervisor.engine.send(*adds)
        held.running.update((request.idx, request) for request in requests)

    def _note(self, event: Finished | Delta | Progress) -> None:
        if not isinstance(event, Finished):
            return
        found = self._book.find(event.key)
        if found is None:
            return  # of a lease that is no longer held
        held, idx = found
        if held.running.pop(idx, None) is None:
            return
        outcome = Outcome(idx=idx, generation=event.generation, refusal=event.refusal)
        self._committer.take(held, outcome)
