"""Continuous batching over token ids. Must not know Celery, SQL, HTTP or settings."""

from __future__ import annotations
