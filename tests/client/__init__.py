"""The Python package `nightshift`."""

from __future__ import annotations
