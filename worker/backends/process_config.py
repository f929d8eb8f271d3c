"""What an engine process is started with; it travels as one JSON argument.

Must not know torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from models.backend_name import BackendName
from models.generation import Frozen
from models.lowp import Lowp

Count = Annotated[int, Field(ge=1)]


class EngineProcessConfig(Frozen):
    """One engine over one artifact. None: decided from what the machine really has."""

    artifact: Path
    threads: Count | None = None
    max_sequences: Count = 96
    step_tokens: Count = 512
    context_tokens: Count | None = None  # of one request; a model's own limit counts as well
    kv_cache_bytes: Count | None = None
    prefix_cache: bool = True
    kernel_cache: Path | None = None  # folder of compiled kernels; None: PyTorch alone
    backend: BackendName = BackendName.NATIVE
    ipex_lowp: Lowp | None = None  # None: what the artifact was made for
