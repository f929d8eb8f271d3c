"""Several workers of one node as one program: started, restarted, drained and ended together.

Must not know what a worker does: a member is a command line that drains when its standard input
ends (see worker.lifeline). So members notice the end of this process, however it ends, and a
signal that reaches them beside this process does not count twice.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from models.errors import InputError, ModelError, NotFoundError

POLL_S = 0.1
# A new process would end in the same way.
_FOR_GOOD = frozenset({0, *(kind.exit_code for kind in (InputError, NotFoundError, ModelError))})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Member:
    """How one worker is started. It runs on `cpus`, and so does what it starts."""

    number: int
    command: tuple[str, ...]
    environment: Mapping[str, str]
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RestartPauses:
    """Seconds before a member is started again: doubled by every failure soon after a start."""

    first_s: float = 1.0
    most_s: float = 60.0
    settled_s: float = 60.0  # who ran for so long starts from the first pause

    def after(self, failures: int) -> float:
        """The pause after so many failures in a row."""
        return min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 30))


class Fleet:
    """Runs its members. Call `run` once, in the main thread: it changes the thread's affinity.

    Who has not drained `kill_after_s` after it was asked to is killed.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        kill_after_s: float,
        pauses: RestartPauses | None = None,
    ) -> None:
        self._kill_after_s = kill_after_s
        self._places = [_Place(member, pauses or RestartPauses()) for member in members]

    def run(self, should_stop: Callable[[], bool]) -> int:
        """Until all members have ended for good; returns the worst of their last exit codes.

        From `should_stop()` on they drain. Whatever ends this call, no member outlives it.
        """
        kill_at: float | None = None
        try:
            while not all(place.is_over for place in self._places):
                if kill_at is None and should_stop():
                    _log.info("the workers drain")
                    kill_at = time.monotonic() + self._kill_after_s
                    self._each(_Place.drain)
                if kill_at is not None and time.monotonic() > kill_at:
                    break
                self._each(_Place.tend)
                time.sleep(POLL_S)
        finally:
            self._each(_Place.kill)
        return max(place.exit_code for place in self._places)

    def _each(self, act: Callable[[_Place], None]) -> None:
        for place in self._places:
            act(place)


class _Place:
    """One member's place in the fleet: the process that has it now, and when the next one may."""

    def __init__(self, member: Member, pauses: RestartPauses) -> None:
        self._member = member
        self._pauses = pauses
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._start_at = 0.0
        self._failures = 0
        self._is_draining = False
        self._is_left = False  # the last process ended for good
        self.exit_code = 0  # of the last process, as a shell tells it

    @property
    def is_over(self) -> bool:
        """Whether nothing runs here and nothing will."""
        return self._process is None and (self._is_left or self._is_draining)

    def tend(self) -> None:
        """Start what is due, and look after what has ended."""
        if self._process is not None:
            code = self._process.poll()
            if code is not None:
                self._ended(code)
        elif not self.is_over and time.monotonic() >= self._start_at:
            self._start()

    def drain(self) -> None:
        """Ask the process to drain, and start no other one."""
        self._is_draining = True
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def kill(self) -> None:
        """End the process at once; its engine ends with it."""
        self._is_draining = True
        if self._process is not None:
            self._process.kill()
            self._ended(self._process.wait())

    def _start(self) -> None:
        self._started_at = time.monotonic()
        try:
            self._process = _spawn(self._member)
        except OSError as exc:  # for want of memory or processes, which may pass
            self._start_later(f"a worker process cannot be started: {exc}")
            return
        pid, cpus = self._process.pid, list(self._member.cpus)
        _log.info("worker process started", extra={**self._told, "pid": pid, "cpus": cpus})

    @property
    def _told(self) -> dict[str, object]:
        return {"instance": self._member.number}

    def _ended(self, code: int) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None
        as_asked = self._is_draining and code == -signal.SIGTERM  # before it could drain
        self.exit_code = 0 if as_asked else code if code >= 0 else 128 - code
        if self._is_draining or self.exit_code in _FOR_GOOD:
            self._is_left = True
            level = logging.ERROR if self.exit_code else logging.INFO
            told = {**self._told, "exit_code": self.exit_code}
            _log.log(level, "worker process ended", extra=told)
        else:
            self._start_later("worker process failed; starting it again")

    def _start_later(self, why: str) -> None:
        settled = time.monotonic() - self._started_at >= self._pauses.settled_s
        self._failures = 1 if settled else self._failures + 1
        pause_s = self._pauses.after(self._failures)
        self._start_at = time.monotonic() + pause_s
        told = {**self._told, "exit_code": self.exit_code, "pause_s": pause_s}
        _log.error("%s", why, extra=told)


def _spawn(member: Member) -> subprocess.Popen[bytes]:
    with _running_on(member.cpus):
        return subprocess.Popen(
            member.command,
            env=dict(member.environment),
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal is for this process alone
        )


@contextmanager
def _running_on(cpus: Sequence[int]) -> Iterator[None]:
    """What this thread starts meanwhile runs on `cpus`, from its first instruction on."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as exc:
        # The cpuset may have changed since the plan was made.
        _log.warning("a worker is not held to its CPUs: %s", exc)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
