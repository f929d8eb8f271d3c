"""Tests; see docs/testing.md for their tiers."""

from __future__ import annotations
