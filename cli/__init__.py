"""The command line: the composition root, which may import everything."""

from __future__ import annotations
