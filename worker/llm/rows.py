"""Rows on their way between matmuls, perhaps with a factor per row that is still to be applied.

Leaving a factor open saves a pass: the next step over the rows applies it while it reads them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """`values` (T, N) stand for values * scale; uint8 values are counted from a zero point."""

    values: Tensor
    scale: Tensor | None = None  # (T,) float32

    def select(self, rows: Tensor) -> Rows:
        """These rows only."""
        scale = None if self.scale is None else self.scale.index_select(0, rows)
        return Rows(self.values.index_select(0, rows), scale)

    def applied(self) -> Tensor:
        """The values that are meant, in their own dtype; not for quantized rows."""
        if self.scale is None:
            return self.values
        return self.values * self.scale.to(self.values.dtype).unsqueeze(1)
