"""The transformers backend: the engine over architectures of transformers."""

from __future__ import annotations

import torch

from worker.backends.engine_backend import EngineBackend, build_backend
from worker.backends.process_config import EngineProcessConfig
from worker.llm.artifact import Artifact
from worker.llm.native.kernels import open_kernels
from worker.llm.transformers.loading import load_transformers_model


def load_transformers(config: EngineProcessConfig, artifact: Artifact) -> EngineBackend:
    """Load an artifact and size the KV cache for it; raises ModelError and SettingsError."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    kernels = open_kernels(config.kernel_cache)
    model = load_transformers_model(artifact, kernels.library)
    described = kernels.described(steps=False, matmuls=model.has_compiled_matmuls)
    return build_backend(config, artifact, model, kernels=described)
