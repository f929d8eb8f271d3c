"""The `nightshift` command: wires store, registry and workers together for a terminal."""

from __future__ import annotations
