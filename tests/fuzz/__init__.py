"""Anything at all as input, parameters and messages: an answer or a refusal, never a surprise.

`make fuzz` goes on where `make test` stops; docs/testing.md says how.
"""

from __future__ import annotations
