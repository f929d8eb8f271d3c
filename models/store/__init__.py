"""All queries of the project: each function is one transaction."""

from __future__ import annotations
