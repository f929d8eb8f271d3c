"""How this worker's engine process is started: which artifact, with how much of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from models.model_key import ModelKey
from models.settings import Settings
from worker.backends.process import EngineProcess, EngineProcessConfig
from worker.jobs.engine_port import EnginePort, SpawnEngine
from worker.llm.registry import Registry


def engine_spawner(settings: Settings, model: ModelKey) -> SpawnEngine:
    """A function that starts an engine; raises NotFoundError when the model is not registered."""
    return partial(EngineProcess, engine_config(settings, model))


def engine_config(settings: Settings, model: ModelKey) -> EngineProcessConfig:
    """What an engine of this model is started with; raises as `engine_spawner`."""
    return EngineProcessConfig(
        backend=settings.backend,
        artifact=Registry(settings.registry_path, settings.backend).find(model),
        threads=settings.threads,
        max_sequences=settings.max_sequences,
        step_tokens=settings.step_tokens,
        context_tokens=settings.context_tokens,
        kv_cache_bytes=settings.kv_cache_bytes,
        kernel_cache=settings.kernel_cache_path,
    )


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
