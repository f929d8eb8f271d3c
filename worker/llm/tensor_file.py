"""Opening the files of tensors that an artifact has. Without torch until one of them is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from models.errors import ArtifactError


def open_tensors(path: Path, framework: Literal["pt", "np"] = "pt") -> Any:
    """A file of tensors for torch, or with "np" for who asks for their shapes and types alone.

    Raises ArtifactError.
    """
    try:
        return safe_open(path, framework=framework)
    except (OSError, SafetensorError) as exc:
        raise ArtifactError(
            f"{path} is missing or damaged: remove the artifact and add the model again"
        ) from exc
