"""The job's data model, shared by every side: states, tables, store, wire shapes, parameters.

Must not know torch, Celery or FastAPI.
"""

from __future__ import annotations
