"""How many workers of a model a node takes, and with which part of it each."""

from __future__ import annotations
