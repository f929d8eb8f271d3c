"""Random numbers that belong to a request: no generator, so nothing beside it can move them.

Torch-free.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import pack

_BITS = 48  # fewer than a double's 53, so that u times a total stays below the total


def uniform(seed: int, choice: int, step: int) -> float:
    """The number in [0, 1) for the token at `step` of one choice of the request with `seed`."""
    digest = blake2b(pack("<QQQ", seed, choice, step), digest_size=_BITS // 8).digest()
    return int.from_bytes(digest, "little") / (1 << _BITS)
