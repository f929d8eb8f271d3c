"""Backends and the engine process."""

from __future__ import annotations
