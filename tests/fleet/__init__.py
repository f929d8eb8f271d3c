"""A fleet over small programs, whose ends the tests choose."""

from __future__ import annotations
