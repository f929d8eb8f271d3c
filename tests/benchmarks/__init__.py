"""Tests of the benchmarks: that they measure what they say, never how fast something is."""

from __future__ import annotations
