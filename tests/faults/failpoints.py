"""Ends or pauses a program at one certain step of the lease protocol.

The program itself has no hooks: a failpoint wraps the function at the step, by the name under
which its caller knows it. A name that no longer exists is an error at once, not a test that shows
nothing. Written as `POINT:ACTION[:TIMES]`, for example `after_claim:kill:3` for the third claim.
"""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final

ACTIONS: Final = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP}


@dataclass(frozen=True, slots=True)
class Step:
    """Functions, as `module:name`, before or after which something shall happen.

    A function that had nothing to do (its result is None or empty) does not count.
    """

    targets: tuple[str, ...]
    is_before: bool = False


POINTS: Final = {
    "before_claim": Step(
        ("worker.jobs.runner:claim_chunk", "worker.jobs.runner:claim_next"), is_before=True
    ),
    # The message is gone from Redis and nothing stands in the database yet.
    "after_receive": Step(("worker.service:WorkerService.take",), is_before=True),
    "after_claim": Step(("worker.jobs.runner:claim_chunk", "worker.jobs.runner:claim_next")),
    "after_read": Step(("worker.jobs.runner:missing_requests",)),
    "before_commit": Step(("worker.jobs.committer:commit_outcomes",), is_before=True),
    # The lease is checked, the transaction is open and nothing is inserted.
    "after_fence": Step(("models.store.commit:_insert_results",), is_before=True),
    # The results are inserted and counted, and the transaction is open.
    "in_commit": Step(("models.store.commit:_log",), is_before=True),
    "after_commit": Step(("worker.jobs.committer:commit_outcomes",)),
    "after_renew": Step(("worker.jobs.lease_keeper:renew_lease",)),
    "before_release": Step(("worker.jobs.committer:release_lease",), is_before=True),
    "after_release": Step(("worker.jobs.committer:release_lease",)),
    "before_finalize": Step(("worker.jobs.committer:finalize_batch",), is_before=True),
    "after_finalize": Step(("worker.jobs.committer:finalize_batch",)),
    # Chunks count as announced, and no message was sent.
    "after_dispatch": Step(("worker.dispatcher:dispatch_chunks",)),
    "after_ring": Step(("worker.doorbell:CeleryDoorbell.ring",), is_before=True),
    "after_sweep": Step(("worker.dispatcher:sweep",)),
    # File, batch and requests are inserted, and the transaction is open.
    "in_submit": Step(("models.store.submit:plan_chunks",), is_before=True),
}


@dataclass(frozen=True, slots=True)
class Failpoint:
    """What shall happen where, and at the how manieth time."""

    point: str
    action: str
    times: int = 1

    @classmethod
    def parse(cls, text: str) -> Failpoint:
        """Raises ValueError or KeyError for what is no failpoint."""
        point, action, *times = text.split(":")
        POINTS[point], ACTIONS[action]
        return cls(point, action, int(times[0]) if times else 1)

    def install(self) -> None:
        """From now on this process ends or stops there."""
        step = POINTS[self.point]
        counter = _Counter(self.times, lambda: _strike(ACTIONS[self.action]))
        for target in step.targets:
            owner, name = _find(target)
            setattr(owner, name, _wrapped(getattr(owner, name), step, counter))


def _strike(number: signal.Signals) -> None:
    """Nothing after this runs: a signal to the whole process may be another thread's to take.

    Then this thread would go on until that one has had its turn.
    """
    signal.pthread_kill(threading.get_ident(), number)


class _Counter:
    def __init__(self, times: int, act: Callable[[], None]) -> None:
        self._left = times
        self._act = act

    def pass_by(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._act()


def _find(target: str) -> tuple[Any, str]:
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    found: Any = importlib.import_module(module)
    for owner in owners:
        found = getattr(found, owner)
    getattr(found, name)  # an error here, not a failpoint that is never reached
    return found, name


def _wrapped(function: Callable[..., Any], step: Step, counter: _Counter) -> Callable[..., Any]:
    @wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        if step.is_before:
            counter.pass_by()
            return function(*args, **options)
        result = function(*args, **options)
        if result is not None and result != []:
            counter.pass_by()
        return result

    return wrapper
