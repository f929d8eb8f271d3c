"""From an artifact to a loaded model that computes on the paged cache: one place for all backends.

Libraries are imported with the backend that needs them, in a process that holds a model.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.backend_name import BackendName
from models.errors import ArtifactError, SettingsError
from worker.backends.process_config import EngineProcessConfig
from worker.llm.artifact import Artifact, open_artifact
from worker.llm.artifact_use import mark_used
from worker.llm.paged_model import PagedModel


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, and what of it is compiled in words."""

    model: PagedModel
    kernels: str


def open_for(config: EngineProcessConfig) -> Artifact:
    """The artifact of a configuration; raises ArtifactError, also when another backend made it."""
    mark_used(config.artifact)
    artifact = open_artifact(config.artifact, verify=False)
    if artifact.manifest.backend is not config.backend:
        raise ArtifactError(
            f"{config.artifact} is for the {artifact.manifest.backend} backend, not for "
            f"{config.backend}: add the model again with --backend {config.backend}"
        )
    return artifact


def load_paged_model(config: EngineProcessConfig, artifact: Artifact) -> LoadedModel:
    """Load an artifact on `config.threads` threads; raises ModelError and SettingsError."""
    if config.backend is BackendName.IPEX:
        raise SettingsError("a model of the ipex backend is not computed on the paged cache")
    import torch

    from worker.llm.native.kernels import open_kernels

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    kernels = open_kernels(config.kernel_cache)
    if config.backend is BackendName.TRANSFORMERS:
        from worker.llm.transformers.loading import load_transformers_model

        theirs = load_transformers_model(artifact, kernels.library)
        said = kernels.described(steps=False, matmuls=theirs.has_compiled_matmuls)
        return LoadedModel(theirs, said)
    from worker.llm.loading import load_model

    ours = load_model(artifact, kernels.library)
    said = kernels.described(steps=ours.has_compiled_steps, matmuls=ours.has_compiled_matmuls)
    return LoadedModel(ours, said)
