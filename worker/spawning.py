"""How this worker's engine process is started: which artifact, with how much of the machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from models.backend_name import BackendName
from models.errors import NotFoundError, SettingsError
from models.model_key import ModelKey
from models.settings import Settings
from worker.backends.process import EngineProcess, EngineProcessConfig
from worker.jobs.engine_port import EnginePort, SpawnEngine
from worker.llm.registry import Registry

_log = logging.getLogger(__name__)


def engine_spawner(settings: Settings, model: ModelKey) -> SpawnEngine:
    """A function that starts an engine of a model.

    One that is not on this machine is pulled from the registry that nodes share. Raises
    NotFoundError when it is nowhere, and as `pull_artifact`.
    """
    return partial(EngineProcess, engine_config(settings, model))


def engine_config(settings: Settings, model: ModelKey) -> EngineProcessConfig:
    """What an engine of this model is started with; raises as `engine_spawner`.

    SettingsError for IPEX's precision where another backend computes.
    """
    if settings.ipex_lowp is not None and settings.backend is not BackendName.IPEX:
        raise SettingsError(
            f"NIGHTSHIFT_IPEX_LOWP does nothing for the {settings.backend} backend: leave it out, "
            "or use --backend ipex"
        )
    return EngineProcessConfig(
        backend=settings.backend,
        ipex_lowp=settings.ipex_lowp,
        artifact=_find_or_pull(settings, model),
        threads=settings.threads,
        max_sequences=settings.max_sequences,
        step_tokens=settings.step_tokens,
        context_tokens=settings.context_tokens,
        kv_cache_bytes=settings.kv_cache_bytes,
        kernel_cache=settings.kernel_cache_path,
    )


def _find_or_pull(settings: Settings, model: ModelKey) -> Path:
    registry = Registry(settings.registry_path, settings.backend)
    try:
        return registry.find(model)
    except NotFoundError:
        if settings.registry_url is None:
            raise
    from worker.llm.pull import pull_artifact
    from worker.llm.remote_registry import RemoteRegistry

    remote = RemoteRegistry(settings.registry_url, settings.backend)
    _log.info("pulling the model", extra={"model": str(model), "registry": remote.url})
    return pull_artifact(remote, registry, model, lambda _done, _total: None).folder


@contextmanager
def started_early(spawn: SpawnEngine) -> Iterator[SpawnEngine]:
    """Start an engine now, so that it loads while the caller does something else.

    The first call of what this gives hands it out, further ones start others. It is killed when
    nobody has taken it.
    """
    early = [spawn()]

    def take() -> EnginePort:
        return early.pop() if early else spawn()

    try:
        yield take
    finally:
        for engine in early:
            engine.kill()
