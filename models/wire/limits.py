"""How large an input may be."""

from __future__ import annotations

from dataclasses import dataclass

from models.settings import Settings

MIB = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class InputLimits:
    """The most that one file may hold; a line's bytes are counted without its line end."""

    max_requests: int = 50_000
    max_file_bytes: int = 200 * MIB
    max_line_bytes: int = MIB

    @classmethod
    def from_settings(cls, settings: Settings) -> InputLimits:
        """The limits that the user set."""
        return cls(
            max_requests=settings.max_file_requests,
            max_file_bytes=settings.max_file_bytes,
            max_line_bytes=settings.max_line_bytes,
        )
