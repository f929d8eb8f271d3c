"""What `evaluate` compares: kinds of weights, each on a backend, and how each gets its artifact.

The registry has one artifact for weights and backend. IPEX's int8 products need int8 weights that
no other product can be made of: whichever the registry lacks is made apart, for the time being.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cli.context import open_registry
from cli.model_choice import add_folder, is_folder, requantize
from models.backend_name import BackendName
from models.errors import InputError
from models.lowp import Lowp
from models.model_key import ModelKey, Weights

if TYPE_CHECKING:
    from models.settings import Settings
    from worker.llm.ipex.recipe import IpexRecipe


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to compute the model, written `int8`, `int8@transformers` or `int8@ipex:fp16`."""

    weights: Weights
    backend: BackendName
    lowp: Lowp | None = None  # of ipex; None: as the settings say, or the artifact

    def __str__(self) -> str:
        if self.backend is BackendName.NATIVE:
            return str(self.weights)
        lowp = "" if self.lowp is None else f":{self.lowp}"
        return f"{self.weights}@{self.backend}{lowp}"

    @classmethod
    def parse(cls, text: str) -> Candidate:
        """Raises InputError for anything else than WEIGHTS, WEIGHTS@BACKEND, WEIGHTS@ipex:LOWP."""
        weights, _, rest = text.strip().partition("@")
        backend, colon, lowp = rest.partition(":")
        is_known = weights in set(Weights) and (backend or "native") in set(BackendName)
        if not is_known or (colon and (backend != BackendName.IPEX or lowp not in set(Lowp))):
            kinds, backends, lowps = ("|".join(each) for each in (Weights, BackendName, Lowp))
            raise InputError(
                f"candidate {text!r} cannot be used: give {kinds}, or with @{backends}, and after "
                f"@ipex also :{lowps}"
            )
        return cls(Weights(weights), BackendName(backend or "native"), Lowp(lowp) if lowp else None)

    def settings(self, settings: Settings) -> Settings:
        """The settings of a worker that computes it."""
        lowp = (self.lowp or settings.ipex_lowp) if self.backend is BackendName.IPEX else None
        return settings.model_copy(update={"backend": self.backend, "ipex_lowp": lowp})


@dataclass(frozen=True, slots=True)
class Prepared:
    """A candidate's artifact, and the settings of a worker that finds and computes it."""

    key: ModelKey
    settings: Settings


def parse_candidates(text: str) -> list[Candidate]:
    """Of a comma-separated list; raises InputError for an unknown or a repeated one."""
    candidates = [Candidate.parse(part) for part in text.split(",")]
    if len(set(candidates)) < len(candidates):
        raise InputError(f"--candidates {text} names one twice: give each once")
    return candidates


def ensure_candidate(
    settings: Settings, name_or_path: str, candidate: Candidate, spare_home: Path
) -> Prepared:
    """Quantize what is missing, from the folder or from where the registered model came.

    What the registry has no place for is made in `spare_home`. Raises NotFoundError, and the
    ModelError of a model that this candidate cannot be made of.
    """
    mine = candidate.settings(settings)
    key = _ensure_artifact(settings, mine, name_or_path, candidate.weights)
    apart = None if mine.ipex_lowp is None else _recipe_apart(mine, key, mine.ipex_lowp)
    if apart is not None:
        mine = mine.model_copy(update={"home": spare_home})
        key = _ensure_artifact(settings, mine, name_or_path, candidate.weights, apart)
    return Prepared(key, mine)


def _recipe_apart(settings: Settings, key: ModelKey, lowp: Lowp) -> IpexRecipe | None:
    """The registry's recipe for other products, where they need other weights; else None."""
    from worker.llm.artifact import read_manifest
    from worker.llm.ipex.recipe import read_recipe

    stored = read_recipe(read_manifest(open_registry(settings).find(key)).recipe)
    wanted = replace(stored, lowp=lowp)
    return None if wanted.symmetric == stored.symmetric else wanted


def _ensure_artifact(
    settings: Settings,
    mine: Settings,
    name_or_path: str,
    weights: Weights,
    ipex: IpexRecipe | None = None,
) -> ModelKey:
    """An artifact in the registry of `mine`, for a model that `settings` know."""
    registry = open_registry(mine)
    if is_folder(open_registry(settings), name_or_path):
        return add_folder(registry, name_or_path, weights, ipex)
    key = ModelKey(name_or_path, weights)
    if ipex is None and any(entry.key == key for entry in registry.entries()):
        return key
    return requantize(registry, settings, key, ipex=ipex).key
