"""The environment variables of the engine process. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_PROJECT_ROOT = Path(__file__).resolve().parents[2]
_SECRET_PREFIXES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE", "NIGHTSHIFT_")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def engine_environment(environ: Mapping[str, str], threads: int) -> dict[str, str]:
    """What the engine gets: no secrets, no network for model files, its thread count."""
    kept = {name: value for name, value in environ.items() if not name.startswith(_SECRET_PREFIXES)}
    kept.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    paths = [str(_PROJECT_ROOT), *filter(None, [environ.get("PYTHONPATH")])]
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # a crash in native code leaves its stack in the log
        "PYTHONPATH": os.pathsep.join(paths),
        # Threads that wait for each other sleep soon. When another program takes a core, spinning
        # keeps the thread that is waited for from moving to the free one: up to 7 times slower.
        "GOMP_SPINCOUNT": environ.get("GOMP_SPINCOUNT", "1000"),
        # PyTorch asks for huge pages: reading weights is up to 15 % faster.
        "THP_MEM_ALLOC_ENABLE": "1",
    }
