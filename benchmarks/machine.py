"""What the figures were measured on: the machine, the commit, our versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil

from models.generation import Frozen
from worker.backends.machine import usable_cores

_FLAGS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16",
)  # fmt: skip
_PACKAGES = ("torch", "transformers", "safetensors", "numpy", "sqlalchemy")
_PROJECT = Path(__file__).resolve().parents[1]


class Machine(Frozen):
    """The hardware, as the kernel tells it."""

    cpu: str
    cores: int
    flags: tuple[str, ...]  # those that decide about kernels
    memory_bytes: int
    kernel: str
    python: str


def describe_machine() -> Machine:
    """This machine."""
    facts = _cpu_facts()
    flags = set(facts.get("flags", "").split())
    return Machine(
        cpu=facts.get("model name", platform.machine()),
        cores=usable_cores(),
        flags=tuple(flag for flag in _FLAGS if flag in flags),
        memory_bytes=psutil.virtual_memory().total,
        kernel=platform.release().partition("-")[0],
        python=platform.python_version(),
    )


def current_commit() -> str:
    """The commit of the checkout, with "+changes" when the engine's files differ from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--", "cli", "models", "worker")
    return f"{head}+changes" if changed else head


def own_versions() -> dict[str, str]:
    """Versions of the packages of our environment that the speed depends on."""
    return {name: version(name) for name in _PACKAGES}


def load_average() -> float:
    """Processes that wanted to run, averaged over the last minute."""
    return os.getloadavg()[0]


def _cpu_facts() -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo; empty on other systems."""
    facts: dict[str, str] = {}
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else ():
        name, colon, value = line.partition(":")
        if colon:
            facts.setdefault(name.strip(), value.strip())
    return facts


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=_PROJECT, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()
