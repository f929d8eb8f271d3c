"""How a quantized model is named everywhere: a registered name and the kind of its weights."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from models.errors import InputError, NotFoundError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class Weights(StrEnum):
    """The format in which the linear layers' weights are kept in memory."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"
    INT4 = "int4"


@dataclass(frozen=True, slots=True, order=True)
class ModelKey:
    """One artifact of one model, written `name:weights`, for example `llama-3-8b:int8`.

    Raises InputError for a name that could not be a file or queue name.
    """

    name: str
    weights: Weights

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(
                f"model name {self.name!r} cannot be used: give letters, digits, '.', '_' or '-', "
                "at most 96 of them"
            )

    def __str__(self) -> str:
        return f"{self.name}:{self.weights}"

    @property
    def queue(self) -> str:
        """The Celery queue of this model; every model has its own."""
        return f"gen.{self.name}.{self.weights}"

    @classmethod
    def parse(cls, text: str) -> ModelKey:
        """Read `name:weights`; raises InputError for anything else."""
        name, colon, weights = text.rpartition(":")
        if not colon or weights not in set(Weights):
            kinds = "|".join(Weights)
            raise InputError(f"model {text!r} is not of the form NAME:{kinds}")
        return cls(name, Weights(weights))


def choose_served(known: Collection[ModelKey], name: str, weights: Weights | None) -> ModelKey:
    """The one of the served models that is meant; without `weights` the name's only variant.

    Raises NotFoundError with the known names, InputError when several variants fit.
    """
    fitting = [key for key in known if key.name == name and weights in (None, key.weights)]
    wanted = name if weights is None else f"{name}:{weights}"
    if not fitting:
        names = ", ".join(map(str, known)) or "none yet"
        raise NotFoundError(f"no model {wanted} is served here (known: {names}): start a worker")
    if len(fitting) > 1:
        variants = "|".join(str(key.weights) for key in fitting)
        raise InputError(f"model {name} is served with several weights: give one of {variants}")
    return fitting[0]
