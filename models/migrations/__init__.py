"""The schema's history: numbered Alembic revisions that lead to `models.tables`.

`HEAD` lets a process check the schema without importing Alembic.
"""

from __future__ import annotations

from typing import Final

HEAD: Final = "0004"
