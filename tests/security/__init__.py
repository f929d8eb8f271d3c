"""Security rules, each shown by a test."""

from __future__ import annotations
