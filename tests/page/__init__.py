"""The page in a real browser, over a real server and a database filled through the store."""

from __future__ import annotations
