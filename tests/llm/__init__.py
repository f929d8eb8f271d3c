"""Tests of the model side: numerics against transformers, artifacts, registry, Hub, tokenizer."""

from __future__ import annotations
