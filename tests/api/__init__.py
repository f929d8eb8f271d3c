"""The HTTP API, over real connections."""

from __future__ import annotations
