"""The HTTP interface: OpenAI's Batch API, what is ours beside it, and a page to watch it.

Imports `models` alone: no torch, no worker.
"""

from __future__ import annotations
