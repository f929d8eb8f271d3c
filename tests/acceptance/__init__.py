"""Whole programs over real servers, as a user runs them."""

from __future__ import annotations
