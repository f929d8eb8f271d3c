"""A worker in service: registered in the database, its model loaded, its chores running.

Shared by the Celery worker and the embedded one; they differ in what they serve and in the
doorbell. Must not know Celery.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType

from models.database import Database
from models.errors import NightshiftError
from models.model_key import ModelKey
from models.settings import Settings
from models.store.model_files import keep_model_files
from models.store.views import Lease, ServedModel, Worker
from models.store.workers import beat, leave, register_model, register_worker
from worker.backends.messages import Ready
from worker.connecting import connect_worker
from worker.housekeeper import Chore, Housekeeper
from worker.jobs.engine_port import SpawnEngine
from worker.jobs.runner import ChunkRunner
from worker.llm.generation_defaults import read_generation_defaults
from worker.llm.registry import Registry
from worker.llm.resolved_tokenizer import kept_files
from worker.worker_id import new_worker_id

_PACKAGES = ("nightshift", "torch", "transformers", "celery", "sqlalchemy")

_log = logging.getLogger(__name__)


class ActiveWorker:
    """A context manager: inside it the worker is registered and `runner` has its engine.

    `periodic` and `on_commit` chores run in the housekeeper's thread.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        model: ModelKey,
        database: Database,
        spawn: SpawnEngine,
        periodic: Sequence[Chore],
        on_wake: Sequence[Chore] = (),
        on_commit: Callable[[Lease], None] = lambda _: None,
    ) -> None:
        self.id = new_worker_id()
        self._settings = settings
        self._model = model
        self._database = database
        self._keeper_database = connect_worker(settings)
        self._on_commit = on_commit
        self._is_draining = False
        self.runner = ChunkRunner(
            database=database,
            keeper_database=self._keeper_database,
            settings=settings,
            model=model,
            worker_id=self.id,
            spawn=spawn,
            on_commit=self._committed,
            on_drain=self._drain,
        )
        self._housekeeper = Housekeeper(
            period_s=settings.sweep_period_s,
            periodic=(self._beat, *periodic),
            on_wake=(self._tell_draining, *on_wake),
        )

    def __enter__(self) -> ActiveWorker:
        _log.info("loading the model", extra={"model": str(self._model), "worker": self.id})
        try:
            self._register(self.runner.start())
        except BaseException:
            self._end()
            raise
        self._housekeeper.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._housekeeper.stop()
        try:
            self._beat()  # the last figures
            leave(self._database, self.id)
        except NightshiftError as away:
            _log.warning("the worker could not sign off: %s", away)
        finally:
            self._end()

    @property
    def peak_rss_bytes(self) -> int:
        """The most memory that an engine of this worker held."""
        return self.runner.supervisor.peak_rss_bytes

    @property
    def forward_s(self) -> float:
        """Seconds that the engines of this worker spent in the model's forward."""
        return self.runner.supervisor.forward_s

    def _register(self, ready: Ready) -> None:
        artifact = Registry(self._settings.registry_path, self._settings.backend).path(self._model)
        served = ServedModel(
            key=self._model,
            artifact=ready.artifact_digest,
            architecture=ready.architecture,
            context_tokens=ready.context_tokens,
            max_new_tokens=read_generation_defaults(artifact).max_new_tokens,
        )
        worker = Worker(
            id=self.id,
            model=self._model,
            host=socket.gethostname(),
            pid=os.getpid(),
            artifact=ready.artifact_digest,
            threads=ready.threads,
            load_s=ready.load_s,
            versions=_versions(),
            rss_bytes=self.runner.supervisor.rss_bytes,
            peak_rss_bytes=ready.peak_rss_bytes,
        )
        keep_model_files(self._database, self._model, ready.artifact_digest, kept_files(artifact))
        register_model(self._database, served)
        register_worker(self._database, worker)
        _log.info(
            "worker ready",
            extra={"model": str(self._model), "worker": self.id, "load_s": ready.load_s},
        )

    def _beat(self) -> None:
        beat(
            self._database,
            self.id,
            draining=self._is_draining,
            rss_bytes=self.runner.supervisor.rss_bytes,
            peak_rss_bytes=self.peak_rss_bytes,
        )

    def _drain(self) -> None:
        """The runner stops: the others learn at once that this worker takes no more chunks."""
        self._is_draining = True
        self._housekeeper.wake()

    def _tell_draining(self) -> None:
        if self._is_draining:
            self._beat()

    def _committed(self, lease: Lease) -> None:
        self._housekeeper.wake()
        self._on_commit(lease)

    def _end(self) -> None:
        self.runner.close()
        self._keeper_database.close()


def _versions() -> dict[str, str]:
    """Installed versions, from their metadata: importing torch here is out of the question."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
