"""Backends: what can generate, and the process that it runs in. Must not know the job store."""

from __future__ import annotations
