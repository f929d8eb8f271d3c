"""A worker process: one thread serves chunks, one does chores, and anyone may ask it to stop.

The Celery worker and the worker without a broker are this, with another doorbell. Must not know
Celery.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from models.errors import NightshiftError
from models.model_key import ModelKey
from models.settings import Settings
from models.store.views import Ring
from worker.active_worker import ActiveWorker
from worker.connecting import connect_worker
from worker.dispatcher import Dispatcher
from worker.doorbell import Doorbell, InProcessDoorbell
from worker.housekeeper import Chore
from worker.jobs.engine_port import SpawnEngine
from worker.spawning import engine_spawner

# Work is also looked for without a ring, so that a lost message costs this and no more.
UNRUNG_PERIOD_S = 5.0
_HEAR_S = 0.5

_log = logging.getLogger(__name__)


class WorkerService:
    """One worker of one model. Call `start` once, `ask_to_stop` at any time, then `join`.

    `doorbell` is where this worker's dispatcher rings; None: its own bell, for its own model.
    `on_end` is called once from the serving thread with the exit code.
    """

    def __init__(
        self,
        settings: Settings,
        model: ModelKey,
        *,
        doorbell: Doorbell | None = None,
        chores: tuple[Chore, ...] = (),
        on_end: Callable[[int], None] = lambda _: None,
        spawn: SpawnEngine | None = None,
    ) -> None:
        self._settings = settings
        self._model = model
        self._bell = InProcessDoorbell()
        self._doorbell = doorbell
        self._chores = chores
        self._on_end = on_end
        self._spawn = spawn
        self._active: ActiveWorker | None = None
        self._stopping = False  # no Event: a signal handler sets it, and locks may be held then
        self._first: Ring | None = None
        self.failure: NightshiftError | None = None
        self.exit_code = 0
        self._thread = threading.Thread(target=self._run, name="chunk-runner", daemon=True)

    def start(self) -> None:
        """Connect, then load and serve in a thread of its own.

        Raises DatabaseUnavailable, and NotFoundError for a model that is not registered.
        """
        settings = self._settings
        spawn = self._spawn or engine_spawner(settings, self._model)
        database = connect_worker(settings)
        dispatcher = Dispatcher(
            database=database,
            doorbell=self._doorbell or self._bell,
            settings=settings,
            models=None if self._doorbell else (self._model,),
        )
        self._active = ActiveWorker(
            settings=settings,
            model=self._model,
            database=database,
            spawn=spawn,
            periodic=(dispatcher.tick, *self._chores),
            on_wake=(dispatcher.dispatch,),
        )
        self._database = database
        self._thread.start()

    def take(self, ring: Ring) -> None:
        """Hand over an announced chunk; blocks while the worker has enough, returns on stop."""
        while not self._stopping and not self._bell.offer(ring, _HEAR_S):
            continue

    def ask_to_stop(self) -> None:
        """Begin to drain; returns at once, so that a signal handler may call it."""
        self._stopping = True

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; False when it did not come in time."""
        deadline = time.monotonic() + timeout_s
        while self._thread.is_alive() and time.monotonic() < deadline:
            if self._stopping and self._active is not None:
                self._active.runner.supervisor.abandon()
            self._thread.join(0.2)
        return not self._thread.is_alive()

    def leave(self, exit_code: int, why: str) -> None:
        """From any thread: drain, and end with this exit code."""
        _log.error("the worker leaves service: %s", why)
        self.exit_code = exit_code
        self._stopping = True

    @property
    def is_stopping(self) -> bool:
        """Whether the worker drains or has ended."""
        return self._stopping

    def _run(self) -> None:
        try:
            self._serve()
        except NightshiftError as exc:
            self._fail(exc)
        except Exception:
            _log.exception("the worker stops because of an unexpected error")
            self.exit_code = 1
        finally:
            self._stopping = True
            self._database.close()
            self._on_end(self.exit_code)

    def _serve(self) -> None:
        if self._active is None:
            raise RuntimeError("start() comes first")
        with self._active as active:
            unrung_at = 0.0
            while not self._stopping:
                active.runner.check_idle()
                if self._first is not None or time.monotonic() >= unrung_at:
                    active.runner.serve(until=lambda: self._stopping, named=self._named)
                    unrung_at = time.monotonic() + self._unrung_period_s
                if not self._stopping:
                    self._first = self._bell.wait(_HEAR_S)

    def _named(self) -> int | None:
        ring, self._first = self._first, None
        ring = ring or self._bell.wait(0)
        return None if ring is None else ring.chunk_id

    @property
    def _unrung_period_s(self) -> float:
        return min(UNRUNG_PERIOD_S, self._settings.sweep_period_s)

    def _fail(self, exc: NightshiftError) -> None:
        if self._stopping:
            _log.info("the worker stopped: %s", exc)  # abandoned while it loaded
            return
        _log.error("the worker leaves service: %s", exc)
        self.failure = exc
        self.exit_code = exc.exit_code
