"""How this worker's engine process is started: which artifact, with how much of the machine."""

from __future__ import annotations

from functools import partial

from models.model_key import ModelKey
from models.settings import Settings
from worker.backends.process import EngineProcess, EngineProcessConfig
from worker.jobs.engine_port import SpawnEngine
from worker.llm.registry import Registry


def engine_spawner(settings: Settings, model: ModelKey) -> SpawnEngine:
    """A function that starts an engine; raises NotFoundError when the model is not registered."""
    config = EngineProcessConfig(
        artifact=Registry(settings.registry_path).find(model),
        threads=settings.threads,
        max_sequences=settings.max_sequences,
        step_tokens=settings.step_tokens,
        kv_cache_bytes=settings.kv_cache_bytes,
        kernel_cache=settings.kernel_cache_path,
    )
    return partial(EngineProcess, config)
