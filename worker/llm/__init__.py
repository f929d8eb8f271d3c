"""Models as tensors: architectures, quantization, loading, artifacts, the registry."""

from __future__ import annotations
