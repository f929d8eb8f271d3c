"""A client of a Nightshift server for what the `openai` client has not: follow, wait, retry, …

It stands beside that client, which uploads files and creates batches. Of the project it imports
the errors alone.
"""

from __future__ import annotations

from models.errors import InputError, NightshiftError, NotFoundError, StateError, UnavailableError
from nightshift.client import Client
from nightshift.shapes import TERMINAL, Batch, Json, Result

__all__ = [
    "TERMINAL", "Batch", "Client", "InputError", "Json", "NightshiftError", "NotFoundError",
    "Result", "StateError", "UnavailableError",
]  # fmt: skip
