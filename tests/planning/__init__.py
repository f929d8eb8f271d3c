"""Plans for machines that are described, and reading what a machine is."""

from __future__ import annotations
