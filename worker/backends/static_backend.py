"""The ipex backend: static batches over the `generate` of a model that IPEX has quantized."""

from __future__ import annotations

import logging

import torch

from worker.backends.engine_backend import EngineBackend, describe, plan_engine, with_text
from worker.backends.process_config import EngineProcessConfig
from worker.engine.static_engine import StaticEngine
from worker.llm.artifact import Artifact
from worker.llm.generating import Generator
from worker.llm.ipex.artifact import load_ipex_model
from worker.llm.ipex.cpu import slow_cpu_warning
from worker.llm.ipex.environment import require_ipex
from worker.llm.ipex.model import IpexModel
from worker.llm.ipex.recipe import Activations

log = logging.getLogger(__name__)


def load_ipex(config: EngineProcessConfig, artifact: Artifact) -> EngineBackend:
    """An engine over the artifact's model; raises as `load_model`."""
    loaded = load_model(config, artifact, config.context_tokens)
    is_bfloat16 = loaded.recipe.activations is Activations.BF16
    dtype = torch.bfloat16 if is_bfloat16 else torch.float32
    limits, demand = plan_engine(config, loaded.config, dtype)
    facts = describe(
        artifact, loaded.config, limits, demand, kernels=f"IPEX, {loaded.recipe.lowp} products"
    )
    engine = StaticEngine(Generator(loaded.model, limits.context_tokens), limits)
    return with_text(engine, artifact, facts)


def load_model(
    config: EngineProcessConfig, artifact: Artifact, context_tokens: int | None
) -> IpexModel:
    """Load an artifact on `config.threads` threads.

    Raises ModelError, SettingsError where IPEX is not installed, and InputError where the weights
    do not serve `config.ipex_lowp`.
    """
    require_ipex()
    warning = slow_cpu_warning()
    if warning is not None:
        log.warning("%s", warning)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return load_ipex_model(artifact, context_tokens=context_tokens, lowp=config.ipex_lowp)
