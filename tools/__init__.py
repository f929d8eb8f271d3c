"""Programs for maintainers; nothing in the installed packages may import them."""

from __future__ import annotations
