"""The C heap of a process that runs for months.

glibc raises its thresholds whenever a large block is freed. From then on such blocks come from
the heap too, small ones that stay are put between them, and the holes are never given back.
"""

from __future__ import annotations

import ctypes
from typing import Final

# mallopt(3): a value that is set stays as it is; these are the ones that glibc begins with.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_THRESHOLD_BYTES: Final = 128 * 1024


def hold_heap_thresholds() -> None:
    """Large blocks go back to the system when freed, for good; without glibc, nothing happens."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _THRESHOLD_BYTES)
