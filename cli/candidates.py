"""What `evaluate` compares: kinds of weights, each on a backend, and how each gets its artifact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cli.context import open_registry
from cli.model_choice import add_folder, is_folder, requantize
from models.backend_name import BackendName
from models.errors import InputError
from models.model_key import ModelKey, Weights

if TYPE_CHECKING:
    from models.settings import Settings


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to compute the model, written `int8` or `int8@transformers`."""

    weights: Weights
    backend: BackendName

    def __str__(self) -> str:
        if self.backend is BackendName.NATIVE:
            return str(self.weights)
        return f"{self.weights}@{self.backend}"

    @classmethod
    def parse(cls, text: str) -> Candidate:
        """Raises InputError for anything else than WEIGHTS or WEIGHTS@BACKEND."""
        weights, _, backend = text.strip().partition("@")
        if weights not in set(Weights) or (backend or "native") not in set(BackendName):
            kinds, backends = "|".join(Weights), "|".join(BackendName)
            raise InputError(
                f"candidate {text!r} cannot be used: give {kinds}, or with @{backends}"
            )
        return cls(Weights(weights), BackendName(backend or "native"))

    def settings(self, settings: Settings) -> Settings:
        """The settings of a worker that computes it."""
        return settings.model_copy(update={"backend": self.backend})


def parse_candidates(text: str) -> list[Candidate]:
    """Of a comma-separated list; raises InputError for an unknown or a repeated one."""
    candidates = [Candidate.parse(part) for part in text.split(",")]
    if len(set(candidates)) < len(candidates):
        raise InputError(f"--candidates {text} names one twice: give each once")
    return candidates


def ensure_candidate(settings: Settings, name_or_path: str, candidate: Candidate) -> ModelKey:
    """Quantize what is missing, from the folder or from where the registered model came.

    Raises NotFoundError, and the ModelError of a model that this candidate cannot be made of.
    """
    registry = open_registry(candidate.settings(settings))
    if is_folder(open_registry(settings), name_or_path):
        return add_folder(registry, name_or_path, candidate.weights)
    key = ModelKey(name_or_path, candidate.weights)
    if any(entry.key == key for entry in registry.entries()):
        return key
    return requantize(candidate.settings(settings), key).key
