"""How many threads an engine computes with. Torch-free: it is decided before torch is loaded."""

from __future__ import annotations

from pathlib import Path

from worker.llm.artifact import TENSOR_SUFFIX

# Below, a layer takes less time than threads take to meet after it.
SMALL_WEIGHTS_BYTES = 4 * 1024**2


def compute_threads(artifact: Path, cores: int) -> int:
    """One thread for a small model, which leaves the other cores to the worker; otherwise all."""
    weight_bytes = sum(path.stat().st_size for path in artifact.glob(f"*{TENSOR_SUFFIX}"))
    return 1 if weight_bytes < SMALL_WEIGHTS_BYTES else cores
