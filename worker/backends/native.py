"""The native backend: the engine over the decoder of this project."""

from __future__ import annotations

import torch

from worker.backends.engine_backend import EngineBackend, build_backend
from worker.backends.process_config import EngineProcessConfig
from worker.llm.artifact import Artifact
from worker.llm.loading import load_model
from worker.llm.native.kernels import open_kernels


def load_native(config: EngineProcessConfig, artifact: Artifact) -> EngineBackend:
    """Load an artifact and size the KV cache for it; raises ModelError and SettingsError."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    kernels = open_kernels(config.kernel_cache)
    model = load_model(artifact, kernels.library)
    described = kernels.described(
        steps=model.has_compiled_steps, matmuls=model.has_compiled_matmuls
    )
    return build_backend(config, artifact, model, kernels=described)
