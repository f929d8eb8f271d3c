"""The only place where the job store and a backend meet: claim, generate, commit."""

from __future__ import annotations
