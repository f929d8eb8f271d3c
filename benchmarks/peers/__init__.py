"""Runners of other engines; each runs in an environment of its own, with the standard library."""

from __future__ import annotations
