"""What one worker of a model takes. Torch-free: read from the artifact's manifest and config.json.

Must not know settings; whoever has them hands over what the user has chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from models.backend_name import BackendName
from worker.backends.threads import SMALL_WEIGHTS_BYTES
from worker.llm.artifact import Artifact, read_manifest
from worker.llm.layer_weights import EMBEDDING
from worker.llm.registry import RegistryEntry
from worker.llm.tensor_file import open_tensors
from worker.planning.cache_shape import read_cache_shape

# A worker and its engine without weights and KV cache: two Pythons, torch, a step's activations.
PROCESSES_BYTES = 768 * 1024**2
_LEAST_CACHE_TOKENS = 4096
_GOOD_SEQUENCE_TOKENS = 512


@dataclass(frozen=True, slots=True)
class ModelDemand:
    """A model and how it is to be run; None: the planner chooses."""

    name: str
    weight_bytes: int
    kv_bytes_per_token: int
    context_tokens: int
    max_sequences: int
    threads: int | None = None
    kv_cache_bytes: int | None = None
    held_twice_bytes: int = 0  # of the weights

    @property
    def fixed_bytes(self) -> int:
        """A worker's memory without its KV cache."""
        return self.weight_bytes + self.held_twice_bytes + PROCESSES_BYTES

    @property
    def least_kv_bytes(self) -> int:
        """For one full context, or for 4,096 tokens of a longer one."""
        tokens = min(self.context_tokens, _LEAST_CACHE_TOKENS)
        return self.kv_cache_bytes or tokens * self.kv_bytes_per_token

    @property
    def good_kv_bytes(self) -> int:
        """For as many sequences of 512 tokens as the engine may run: more workers need no less."""
        tokens = self.max_sequences * min(self.context_tokens, _GOOD_SEQUENCE_TOKENS)
        return self.kv_cache_bytes or max(self.least_kv_bytes, tokens * self.kv_bytes_per_token)

    @property
    def most_kv_bytes(self) -> int:
        """More than this no number of sequences could fill."""
        tokens = self.max_sequences * self.context_tokens
        return self.kv_cache_bytes or tokens * self.kv_bytes_per_token

    @property
    def is_tiny(self) -> bool:
        """Whether one thread computes it, see worker.backends.threads."""
        return self.weight_bytes < SMALL_WEIGHTS_BYTES


def demand_of(
    entry: RegistryEntry,
    *,
    max_sequences: int,
    context_tokens: int | None,
    threads: int | None,
    kv_cache_bytes: int | None,
) -> ModelDemand:
    """The demand of a registered model, whose own context counts where it is shorter.

    Raises ArtifactError, UnsupportedModel.
    """
    manifest = read_manifest(entry.folder)
    shape = read_cache_shape(entry.folder)
    artifact = Artifact(entry.folder, manifest, manifest.digest)
    return ModelDemand(
        name=str(entry.key),
        weight_bytes=_tensor_bytes(artifact),
        kv_bytes_per_token=shape.bytes_per_token(entry.key.weights),
        context_tokens=min(shape.context_tokens, context_tokens or shape.context_tokens),
        max_sequences=max_sequences,
        threads=threads,
        kv_cache_bytes=kv_cache_bytes,
        held_twice_bytes=_held_twice_bytes(artifact),
    )


def _tensor_bytes(artifact: Artifact) -> int:
    return sum(artifact.manifest.files[path.name].bytes for path in artifact.tensor_files)


def _held_twice_bytes(artifact: Artifact) -> int:
    """Of a quantized embedding that is the output layer, too: its rows, and packed to multiply.

    Raises ArtifactError.
    """
    if artifact.manifest.backend is not BackendName.NATIVE:
        return 0
    rows_bytes = 0
    for path in artifact.tensor_files:
        with open_tensors(path, framework="np") as file:
            names = file.keys()
            if "lm_head.weight" in names:
                return 0
            if f"{EMBEDDING}.weight" in names:
                rows = file.get_slice(f"{EMBEDDING}.weight")
                is_quantized = rows.get_dtype() in ("I8", "U8")
                rows_bytes = math.prod(rows.get_shape()) if is_quantized else 0
    return rows_bytes
