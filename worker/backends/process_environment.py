"""The environment variables of the engine process. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_PROJECT_ROOT = Path(__file__).resolve().parents[2]
# What programs, libraries of mathematics and a compiler are tuned by. Whatever else the worker has
# (passwords in URLs, tokens of clouds and of model hubs) stays with it: the engine runs on what
# others wrote.
_ALLOWED = frozenset({
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM"),
    *("TMPDIR", "TEMP", "TMP", "VIRTUAL_ENV", "NUMEXPR_MAX_THREADS"),
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "GLIBC_TUNABLES"),
    *("CPATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX"),
})  # fmt: skip
_ALLOWED_PREFIXES = (
    *("LC_", "XDG_", "PYTHON"),
    *("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "BLIS_", "DNNL_", "ONEDNN_", "TORCH", "ATEN_"),
    *("MALLOC_", "JE_MALLOC_", "TCMALLOC_", "MIMALLOC_"),
)  # fmt: skip
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def import_path(environ: Mapping[str, str]) -> str:
    """PYTHONPATH of a process of this project: this checkout before what the user has."""
    return os.pathsep.join([str(_PROJECT_ROOT), *filter(None, [environ.get("PYTHONPATH")])])


def engine_environment(environ: Mapping[str, str], threads: int) -> dict[str, str]:
    """What the engine gets: only what is allowed, no network for model files, its thread count."""
    kept = {
        name: value
        for name, value in environ.items()
        if name in _ALLOWED or name.startswith(_ALLOWED_PREFIXES)
    }
    kept.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",  # the file with the user's token is not read either
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # a crash in native code leaves its stack in the log
        "PYTHONPATH": import_path(environ),
        # Threads that wait for each other sleep soon. When another program takes a core, spinning
        # keeps the thread that is waited for from moving to the free one: up to 7 times slower.
        "GOMP_SPINCOUNT": environ.get("GOMP_SPINCOUNT", "1000"),
        # PyTorch asks for huge pages: reading weights is up to 15 % faster.
        "THP_MEM_ALLOC_ENABLE": "1",
        # Nothing is compiled; importing IPEX starts a process of 540 MB for it otherwise.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
