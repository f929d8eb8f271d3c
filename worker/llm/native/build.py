"""Compile the kernels on the machine that runs them, once, into a folder that is kept.

A plain C ABI, so that no header of PyTorch is needed and compiling takes seconds. Torch-free.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from models.errors import KernelsUnavailable

SOURCES = ("attention.cpp", "matmul.cpp", "rows.cpp")
HEADERS = ("vectors.h",)
CPU_FEATURES = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "avx512_vnni")
COMPILERS = ("g++", "c++")  # clang would bring an OpenMP runtime of its own beside PyTorch's
FLAGS = (
    "-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-mfma",
    "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16",
    "-mavx512vnni",
)  # fmt: skip
COMPILE_TIMEOUT_S = 120
_FOLDER = Path(__file__).parent


def load_library(cache: Path) -> ctypes.CDLL:
    """Compile or find the library and load it; raises KernelsUnavailable.

    In a process that computes, import torch before: the library shares its OpenMP runtime.
    """
    path = library_path(cache)
    try:
        return ctypes.CDLL(str(path))
    except OSError as exc:
        raise KernelsUnavailable(f"{path} cannot be loaded: {exc}") from exc


def library_path(cache: Path) -> Path:
    """The compiled library for this machine, compiled now when `cache` does not hold it.

    Raises KernelsUnavailable: another CPU, no compiler, or a folder that cannot be used.
    """
    _check_cpu()
    compiler = _find_compiler()
    try:
        target = cache / f"kernels-{_fingerprint(compiler)}.so"
        if not target.exists():
            _compile(compiler, target)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise KernelsUnavailable(f"the kernels cannot be compiled: {exc}") from exc
    return target


def cpu_features() -> frozenset[str]:
    """The CPU's feature flags as Linux names them; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def has_amx() -> bool:
    """Whether oneDNN multiplies int8 several times faster here than VNNI can."""
    return "amx_int8" in cpu_features()


def _check_cpu() -> None:
    missing = [name for name in CPU_FEATURES if name not in cpu_features()]
    if missing:
        raise KernelsUnavailable(f"this CPU lacks {', '.join(missing)}")


def _find_compiler() -> str:
    for name in COMPILERS:
        path = shutil.which(name)
        if path is not None:
            return path
    raise KernelsUnavailable("there is no C++ compiler: install g++")


def _fingerprint(compiler: str) -> str:
    """Changes with everything that the library depends on."""
    digest = hashlib.sha256()
    for name in (*SOURCES, *HEADERS):
        digest.update((_FOLDER / name).read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    digest.update(" ".join(FLAGS).encode() + version)
    return digest.hexdigest()[:16]


def _compile(compiler: str, target: Path) -> None:
    """Compile beside the target and rename: several workers may do so at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        sources = [str(_FOLDER / name) for name in SOURCES]
        command = [compiler, *FLAGS, *sources, "-o", str(made)]
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, errors="replace",
                timeout=COMPILE_TIMEOUT_S,
            )  # fmt: skip
        except subprocess.CalledProcessError as exc:
            first = (exc.stderr or "").strip().partition("\n")[0]
            raise KernelsUnavailable(f"{compiler} cannot compile the kernels: {first}") from exc
        with made.open("rb") as file:
            os.fsync(file.fileno())  # a power cut must not leave half a library to crash on
        os.replace(made, target)
