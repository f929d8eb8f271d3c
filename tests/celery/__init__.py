"""The Celery worker over a real Redis and PostgreSQL."""

from __future__ import annotations
