"""A worker without servers: SQLite instead of PostgreSQL, a bell in the process instead of Redis.

`run_batch` works on one batch in the caller's thread; `run_forever` serves whatever is submitted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from models.database import Database
from models.disk_space import DiskSpace
from models.errors import DatabaseUnavailable, EngineCrashed
from models.model_key import ModelKey
from models.settings import Settings
from models.store.batches import finalize_batch, get_batch
from models.store.views import Batch
from worker.active_worker import ActiveWorker
from worker.dead_leases import release_leases_of_the_dead
from worker.dispatcher import sweep_once
from worker.jobs.engine_port import SpawnEngine
from worker.service import WorkerService
from worker.spawning import engine_spawner

_POLL_S = 0.25
_REPORT_PERIOD_S = 0.2

_log = logging.getLogger(__name__)


class EmbeddedWorker:
    """One worker over the caller's database. `spawn` starts the engine; None: the model's own."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        model: ModelKey,
        *,
        spawn: SpawnEngine | None = None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._model = model
        self._spawn = spawn
        self.peak_rss_bytes = 0
        self.load_s = 0.0  # waited for the model
        self.forward_s = 0.0

    def run_batch(
        self,
        batch_id: str,
        *,
        on_progress: Callable[[Batch], None] = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Batch:
        """Work until the batch ends or `should_stop()` holds; returns the batch as it is then.

        What finished is committed in either case. `on_progress` hears of the batch a few times a
        second, from the caller's thread. Other processes may work on the same batch meanwhile.
        Raises ModelError, EngineError, DatabaseUnavailable or StorageFull.
        """
        release_leases_of_the_dead(self._database, batch_id)
        batch = finalize_batch(self._database, batch_id)
        if batch.is_terminal or should_stop():
            return batch
        report = _Reporter(self._database, batch_id, on_progress)
        active = ActiveWorker(
            settings=self._settings,
            model=self._model,
            database=self._database,
            spawn=self._spawn or engine_spawner(self._settings, self._model),
            periodic=(lambda: sweep_once(self._database, self._settings),),
            on_commit=lambda _: report.tell(),
        )
        waits_since = time.monotonic()
        try:
            with _abandon_loading(active, should_stop), active:
                self.load_s += time.monotonic() - waits_since
                return self._work(active, report, should_stop)
        except EngineCrashed:
            if not should_stop():
                raise
            return get_batch(self._database, batch_id)
        finally:
            self.peak_rss_bytes = max(self.peak_rss_bytes, active.peak_rss_bytes)
            self.forward_s += active.forward_s

    def run_forever(self, should_stop: Callable[[], bool]) -> int:
        """Serve every batch of the model until `should_stop()`; returns the exit code.

        Raises what made the worker leave service.
        """
        service = WorkerService(self._settings, self._model, spawn=self._spawn)
        service.start()
        while not should_stop() and not service.is_stopping:
            time.sleep(_POLL_S)
        service.ask_to_stop()
        if not service.join(self._settings.drain_timeout_s):
            _log.error("draining took too long; the leases will run out by themselves")
            return 1
        if service.failure is not None:
            raise service.failure
        return service.exit_code

    def _work(
        self, active: ActiveWorker, report: _Reporter, should_stop: Callable[[], bool]
    ) -> Batch:
        space = DiskSpace(self._database, self._settings.min_free_disk_bytes)
        while True:
            active.runner.serve(until=should_stop, only_batch=report.batch_id)
            batch = report.tell_now()
            if batch.is_terminal or should_stop():
                return batch
            space.check()
            # What is left is in other hands, or waits after a crash.
            time.sleep(_POLL_S)
            active.runner.check_idle()
            finalize_batch(self._database, report.batch_id)


class _Reporter:
    """Tells the caller how the batch stands, not more often than a person can follow."""

    def __init__(
        self, database: Database, batch_id: str, on_progress: Callable[[Batch], None]
    ) -> None:
        self.batch_id = batch_id
        self._database = database
        self._on_progress = on_progress
        self._told_at = 0.0

    def tell_now(self) -> Batch:
        self._told_at = time.monotonic()
        batch = get_batch(self._database, self.batch_id)
        self._on_progress(batch)
        return batch

    def tell(self) -> None:
        """After a commit; a database that is away is the runner's to notice, not ours."""
        if time.monotonic() - self._told_at >= _REPORT_PERIOD_S:
            with suppress(DatabaseUnavailable):
                self.tell_now()


@contextmanager
def _abandon_loading(active: ActiveWorker, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Meanwhile, a wish to stop ends an engine that still loads: that may take minutes."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_S):
            if should_stop():
                active.runner.supervisor.abandon()

    watcher = threading.Thread(target=watch, name="load-watcher", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
