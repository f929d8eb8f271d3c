"""Whether the disk of an SQLite database has room for more work.

What runs has to be written yet, so new work is refused some time before nothing fits any more. Of
the disk of a PostgreSQL server nothing is known here.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from models.database import Database
from models.errors import StorageFull
from models.quantities import format_bytes

_PERIOD_S = 5.0


class DiskSpace:
    """Looks at the disk every few seconds at most; may be shared between threads."""

    def __init__(
        self,
        database: Database,
        min_free_bytes: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = database.file
        self._min_free_bytes = min_free_bytes
        self._clock = clock
        self._look_at = 0.0
        self._shortage: str | None = None

    def shortage(self) -> str | None:
        """One sentence when there is less free space than there should be; else None."""
        if self._file is not None and self._clock() >= self._look_at:
            self._look_at = self._clock() + _PERIOD_S
            self._shortage = self._sentence if self._is_low(self._file.parent) else None
        return self._shortage

    def check(self) -> None:
        """Raise StorageFull when there is a shortage."""
        shortage = self.shortage()
        if shortage is not None:
            raise StorageFull(shortage)

    def _is_low(self, folder: Path) -> bool:
        try:
            return shutil.disk_usage(folder).free < self._min_free_bytes
        except OSError:  # what is wrong with the disk the database will say
            return False

    @property
    def _sentence(self) -> str:
        return (
            f"the disk of the database {self._file} has less than "
            f"{format_bytes(self._min_free_bytes)} left: free some space, or lower "
            "NIGHTSHIFT_MIN_FREE_DISK_BYTES"
        )
