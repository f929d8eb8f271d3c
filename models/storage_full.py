"""Which failures mean that there is no space left; imports nothing of the project."""

from __future__ import annotations

import errno


def is_storage_full(error: BaseException) -> bool:
    """Whether a write failed because there is no space left, on the disk or in a quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
