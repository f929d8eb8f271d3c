"""Compiled kernels for CPUs with AVX512_BF16; without them the same steps run in PyTorch."""

from __future__ import annotations
