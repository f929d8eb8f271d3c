"""Which program code computes a model: the names of the backends, torch-free."""

from __future__ import annotations

from enum import StrEnum


class BackendName(StrEnum):
    """`native` is this project's decoder, `transformers` runs the architectures of transformers.

    `ipex` is Intel's extension of PyTorch, which needs an environment of its own.
    """

    NATIVE = "native"
    TRANSFORMERS = "transformers"
    IPEX = "ipex"
