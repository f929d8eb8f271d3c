"""The engine: scheduling, blocks, sampling, and equality with transformers."""

from __future__ import annotations
