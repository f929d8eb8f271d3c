"""Speed, measured: the engine against the machine's limits and against other engines.

Imports nothing, because runners also start in environments that hold another engine alone.
"""

from __future__ import annotations
