"""What a backend puts into an artifact; everything else of one is the same for all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Contents:
    """The tensors are made while they are written, and come once."""

    architecture: str  # one line for people
    config: Mapping[str, object]  # config.json
    tensors: Iterable[tuple[str, Tensor]]
    n_tensors: int
    # what the recipe says of a checkpoint that was quantized already
    origin: dict[str, str | int] = field(default_factory=dict)
