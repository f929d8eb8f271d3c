"""What the job side needs of an engine process; `worker.backends.process` is the real one.

A Protocol, so that tests can put a scripted engine in its place where a fault must be injected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from worker.backends.messages import Add, Cancel, Delta, Finished, Progress, Ready


class EnginePort(Protocol):
    """One running engine; every method may raise EngineCrashed once the process has died."""

    @property
    def seconds_since_sign_of_life(self) -> float:
        """Seconds since the engine last made progress, or was idle and said so."""

    @property
    def peak_rss_bytes(self) -> int:
        """The most memory that the process has held."""

    @property
    def rss_bytes(self) -> int:
        """Memory that the process holds now; 0 when it has ended."""

    @property
    def forward_s(self) -> float:
        """Seconds in the model's forward so far, as last reported."""

    def wait_ready(self, timeout_s: float) -> Ready:
        """Wait for the model; raises ModelError, EngineCrashed or EngineStalled."""

    def send(self, *commands: Add | Cancel) -> None:
        """Queue commands; never blocks."""

    def receive(self, timeout_s: float) -> Sequence[Finished | Delta | Progress]:
        """What happened; empty after the timeout. Raises EngineCrashed after the last event."""

    def stop(self) -> None:
        """Ask the process to end, and kill it when it does not."""

    def kill(self) -> None:
        """End the process at once; another thread's `wait_ready` or `receive` then raises."""


SpawnEngine = Callable[[], EnginePort]
