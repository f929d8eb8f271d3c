"""The Celery side of a worker: the app, and how the worker's life follows Celery's.

`celery -A worker.celery_app worker` and `nightshift worker` both start here. Celery's process
moves messages; the chunks, their leases and the engine are the WorkerService's, in its threads.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

from celery import Celery, bootsteps, signals
from celery.worker import WorkController
from celery.worker import state as celery_state

from models.errors import NightshiftError, SettingsError
from models.model_key import ModelKey
from models.settings import Settings, load_settings
from models.store.views import Ring
from worker.celery_config import celery_config
from worker.doorbell import CeleryDoorbell
from worker.heap import hold_heap_thresholds
from worker.jobs.engine_port import SpawnEngine
from worker.lifeline import watch_lifeline
from worker.logs import configure_logging
from worker.redis_transport import harden_redis_transport
from worker.service import WorkerService
from worker.tasks import ChunkListener, register_chunk_task
from worker.watchdog import DEAF_AFTER_S, EXIT_DEAF, DeafnessWatch

_EXIT_GRACE_S = 10.0  # Celery's loop looks at its stop flag about once a second

_log = logging.getLogger(__name__)


def create_app(settings: Settings, *, model: ModelKey | None = None) -> Celery:
    """An app that can ring, and for a worker of `model` also listen; touches no network."""
    harden_redis_transport()
    app = Celery("nightshift", set_as_current=False)
    app.conf.update(celery_config(settings, model))
    return app


class CeleryWorker:
    """One worker service tied to one Celery app: the same lifetime, the same exit code.

    `spawn` starts the engine; None: the model's own.
    """

    def __init__(
        self, settings: Settings, model: ModelKey, *, spawn: SpawnEngine | None = None
    ) -> None:
        self._settings = settings
        self._has_signal = False
        self._is_released = False
        self.app = create_app(settings, model=model)
        self.doorbell = CeleryDoorbell(self.app)
        self._watch = DeafnessWatch(lambda: self.doorbell.waiting(model))
        self.service = WorkerService(
            settings,
            model,
            doorbell=self.doorbell,
            chores=(self._check_hearing,),
            on_end=self._ended,
            spawn=spawn,
        )
        register_chunk_task(self.app, ChunkListener(model, self._take))
        self.app.steps["worker"].add(_step_of(self))
        # A receiver keeps Celery from setting up logging itself.
        signals.setup_logging.connect(self._set_up_logging, weak=False)

    def start(self) -> None:
        """In Celery's main thread, before messages are consumed."""
        hold_heap_thresholds()
        signals.worker_shutting_down.connect(self._asked_to_stop, weak=False)
        try:
            self.service.start()
        except NightshiftError as exc:
            _log.error("the worker cannot start: %s", exc)
            raise SystemExit(exc.exit_code) from exc

    def stop(self) -> bool:
        """In Celery's main thread, after messages are no longer consumed.

        Returns whether it was asked for and all went well: then the exit code is 0, also for
        SIGINT, which Celery itself would end with 1.
        """
        self.service.ask_to_stop()
        if not self.service.join(self._settings.drain_timeout_s):
            _log.error("draining took too long; the leases will run out by themselves")
            os._exit(1)
        is_asked = self._has_signal or self._is_released
        return is_asked and self.service.exit_code == 0

    def release(self) -> None:
        """From any thread: drain, and end with 0 when that went well.

        A signal that comes beside it is still the first one: it changes nothing.
        """
        self._is_released = True
        self.service.ask_to_stop()
        celery_state.should_stop = 0

    def _take(self, ring: Ring) -> None:
        with self._watch.hearing():
            self.service.take(ring)

    def _check_hearing(self) -> None:
        if self._watch.is_deaf():
            why = f"messages have waited for {DEAF_AFTER_S:.0f} s and none was heard"
            self.service.leave(EXIT_DEAF, why)

    def _asked_to_stop(self, how: str = "Warm", **_: Any) -> None:
        """Inside Celery's signal handler: the first signal drains, the next one ends at once."""
        stops_already = self.service.is_stopping and not self._is_released
        if how != "Warm" or self._has_signal or stops_already:
            os._exit(1)  # the engine dies with this process, and the leases run out
        self._has_signal = True
        self.service.ask_to_stop()

    def _ended(self, exit_code: int) -> None:
        """The service has ended; when nobody asked for it, Celery has to follow."""
        if exit_code:
            celery_state.should_stop = exit_code
            last_resort = threading.Timer(_EXIT_GRACE_S, os._exit, [exit_code])
            last_resort.daemon = True
            last_resort.start()

    def _set_up_logging(self, **_: Any) -> None:
        configure_logging(self._settings.log_level)


def _step_of(owner: CeleryWorker) -> type[bootsteps.StartStopStep]:
    """A step of Celery's start and stop; as a class, because Celery makes the instance."""

    class ServiceStep(bootsteps.StartStopStep):  # type: ignore[misc]
        requires = frozenset({"celery.worker.components:Pool"})

        def start(self, _parent: object) -> None:
            owner.start()

        def stop(self, parent: WorkController) -> None:
            if owner.stop():
                parent.exitcode = 0

        terminate = stop

    return ServiceStep


def run_celery_worker(
    settings: Settings,
    model: ModelKey,
    *,
    lifeline: int | None = None,
    spawn: SpawnEngine | None = None,
) -> int:
    """Run a worker until a signal ends it; returns the exit code. `spawn` as in CeleryWorker.

    The end of the pipe `lifeline` ends it, too.

    Raises BrokerUnavailable when the broker does not answer at the start, and what made the
    service leave: ModelError, EngineError, DatabaseUnavailable.
    """
    worker = CeleryWorker(settings, model, spawn=spawn)
    if lifeline is not None:
        drain_timeout_s = settings.drain_timeout_s
        watch_lifeline(lifeline, worker.release, drain_timeout_s=drain_timeout_s)
    worker.doorbell.check()
    program = worker.app.Worker(
        quiet=True,
        # Workers need not know of each other: at many nodes that costs more than it tells.
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    program.start()
    if worker.service.failure is not None:
        raise worker.service.failure
    return worker.service.exit_code or program.exitcode or 0


def _plain_app() -> Celery:
    """The app of `celery -A worker.celery_app`, from the environment alone."""
    try:
        settings = load_settings()
        if settings.model is None:
            raise SettingsError("NIGHTSHIFT_MODEL is not set: give NAME:WEIGHTS of the model")
        return CeleryWorker(settings, ModelKey.parse(settings.model)).app
    except NightshiftError as exc:
        configure_logging("error")
        _log.error("the worker cannot start: %s", exc)
        raise SystemExit(exc.exit_code) from exc


def __getattr__(name: str) -> Celery:
    """`app` is built when asked for: importing this module reads no settings."""
    if name == "app":
        return _plain_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
