"""Workers: Celery process, engine process, backends, engine and models."""

from __future__ import annotations
