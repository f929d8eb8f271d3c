"""Lists by pages, as the official client walks through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from api.shapes import Page


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=_Identified)


def page_of(found: Sequence[Item], limit: int) -> Page[Item]:
    """The page of what was found when one more than `limit` was looked for."""
    shown = list(found[:limit])
    return Page(
        data=shown,
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
        has_more=len(found) > limit,
    )
