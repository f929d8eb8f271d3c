"""Starts the engine process, starts it again after a crash, and knows when to give up.

Must not know leases: what a crash costs a chunk is the runner's business.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from models.errors import EngineCrashed, EngineError, EngineGivenUp, EngineStalled
from models.settings import Settings
from worker.backends.messages import Ready
from worker.jobs.engine_port import EnginePort, SpawnEngine

MAX_RESTARTS = 5
RESTART_WINDOW_S = 600.0

_log = logging.getLogger(__name__)


class EngineSupervisor:
    """Owns at most one engine process at a time."""

    def __init__(
        self,
        spawn: SpawnEngine,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spawn = spawn
        self._settings = settings
        self._clock = clock
        self._restarts: deque[float] = deque()
        self._engine: EnginePort | None = None
        self._lock = threading.Lock()
        self._is_loading = False
        self._is_abandoned = False
        self._peak_rss_bytes = 0
        self._forward_s = 0.0

    @property
    def engine(self) -> EnginePort:
        """The running engine; raises EngineCrashed when there is none."""
        if self._engine is None:
            raise EngineCrashed("the engine is not running")
        return self._engine

    @property
    def peak_rss_bytes(self) -> int:
        """The most memory that any engine process held."""
        current = self._engine.peak_rss_bytes if self._engine else 0
        return max(self._peak_rss_bytes, current)

    @property
    def rss_bytes(self) -> int:
        """Memory that the engine process holds now; 0 while there is none."""
        engine = self._engine
        return engine.rss_bytes if engine else 0

    @property
    def forward_s(self) -> float:
        """Seconds in the model's forward, over all engine processes."""
        return self._forward_s + (self._engine.forward_s if self._engine else 0.0)

    def is_alive(self) -> bool:
        """Whether leases may be renewed: the engine loads, or made progress of late."""
        engine = self._engine
        if self._is_loading:
            return True  # loading has its own time limit
        limit_s = self._settings.stall_timeout_s
        return engine is not None and not _is_stalled(engine, limit_s)

    def start(self) -> Ready:
        """Start the first engine and wait for its model; raises ModelError or EngineError."""
        return self._start()

    def restart(self) -> Ready:
        """Replace a crashed or stalled engine, as often as the limit allows.

        Raises EngineGivenUp past the limit, ModelError when the model is no longer usable.
        """
        while True:
            self._end(kill=True)
            self._count_restart()
            try:
                return self._start()
            except EngineError as exc:
                if self._is_abandoned:
                    raise
                _log.error("the engine did not come back: %s", exc)

    def renew(self) -> Ready:
        """Replace a healthy engine, which is no crash; raises ModelError or EngineError."""
        self._end(kill=False)
        return self._start()

    def check(self) -> None:
        """Raise EngineStalled when the engine has made no progress for too long."""
        check_progress(self.engine, self._settings.stall_timeout_s)

    def abandon(self) -> None:
        """From any thread: kill an engine that is still loading, because nobody needs it."""
        with self._lock:
            self._is_abandoned = True
            if self._is_loading and self._engine is not None:
                self._engine.kill()

    def stop(self) -> None:
        """End the engine; no-op without one."""
        self._end(kill=False)

    def _start(self) -> Ready:
        with self._lock:
            if self._is_abandoned:
                raise EngineCrashed("the worker stops")
            self._is_loading = True
            self._engine = self._spawn()
        try:
            return self._engine.wait_ready(self._settings.load_timeout_s)
        except BaseException:
            self._end(kill=True)
            raise
        finally:
            self._is_loading = False

    def _end(self, *, kill: bool) -> None:
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is None:
            return
        self._peak_rss_bytes = max(self._peak_rss_bytes, engine.peak_rss_bytes)
        if kill:
            engine.kill()
        else:
            engine.stop()
        self._forward_s += engine.forward_s  # its last report came while it ended

    def _count_restart(self) -> None:
        now = self._clock()
        while self._restarts and now - self._restarts[0] > RESTART_WINDOW_S:
            self._restarts.popleft()
        if len(self._restarts) >= MAX_RESTARTS:
            raise EngineGivenUp(
                f"the engine crashed more than {MAX_RESTARTS} times in "
                f"{RESTART_WINDOW_S / 60:.0f} minutes, so this worker stops; look at the log for "
                "the cause, memory first"
            )
        self._restarts.append(now)


def check_progress(engine: EnginePort, limit_s: float) -> None:
    """Raise EngineStalled when the engine has made no progress for longer than that."""
    if _is_stalled(engine, limit_s):
        raise EngineStalled(f"the engine has made no progress for {limit_s:g} s")


def _is_stalled(engine: EnginePort, limit_s: float) -> bool:
    return engine.seconds_since_sign_of_life > limit_s
