"""Real faults in real processes: nothing lost, nothing twice. docs/reliability.md is the index."""

from __future__ import annotations
