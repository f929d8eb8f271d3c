"""What every backend does: the seam between the engine process and what generates.

A backend refuses a request in `prepare`, before it costs anything; what it has accepted it
finishes. `prepare` runs on the thread that reads commands while another one computes: it must
touch nothing that a step changes. All other methods are called by the computing thread alone.
Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from models.params import DecodingParams
from worker.backends.messages import Add, Delta, Finished
from worker.engine.counters import EngineCounters


@dataclass(frozen=True, slots=True)
class Description:
    """What was loaded and how much of it runs at once."""

    architecture: str
    weights: str
    artifact_digest: str
    vocab_size: int
    context_tokens: int
    kv_cache_tokens: int
    kv_cache_bytes: int
    max_sequences: int
    kernels: str  # what of the model is compiled, and why not the rest


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that can run: tokens, and parameters with nothing left open."""

    command: Add
    prompt_ids: tuple[int, ...]
    params: DecodingParams
    seed: int
    arrived_s: float  # monotonic clock
    tokenize_s: float

    @property
    def key(self) -> str:
        """The sender's name for it."""
        return self.command.key


class Backend(Protocol):
    """A loaded model that generates for many requests together."""

    def describe(self) -> Description:
        """What was loaded; constant."""
        ...

    def prepare(self, command: Add, arrived_s: float) -> Prepared:
        """Tokenize and check. Raises RequestRefused; may run while `step` does."""
        ...

    def add(self, prepared: Prepared) -> None:
        """Take a request; raises RequestRefused when its key is in flight."""
        ...

    def cancel(self, keys: Iterable[str]) -> None:
        """Forget requests; unknown keys are no error."""
        ...

    def step(self) -> list[Finished | Delta]:
        """Compute for a fraction of a second and return what came of it."""
        ...

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do."""
        ...

    @property
    def counters(self) -> EngineCounters:
        """Figures up to now."""
        ...
