"""The profile that `make fuzz` chooses with `--hypothesis-profile`."""

from __future__ import annotations

from hypothesis import settings

from tests.fuzz.budget import LONG

settings.register_profile(LONG)
