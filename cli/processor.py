"""What the processor offers: the features that matter here and the int8 kernel in use.

Nothing here imports torch; the kernel check runs in a process of its own, because the library
reports the kernel that it chose on stdout and only when asked before it is loaded.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from worker.llm.native import build

# The instructions that decide how fast quantized layers run, slowest to fastest.
CPU_FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")

_PROBE_TIMEOUT_S = 120
_INT8_PROBE = """
import torch
from worker.llm.linear import Int8Linear
from worker.llm.rows import Rows
weight = torch.randint(-127, 127, (32, 64), dtype=torch.int8)
rows = Rows(torch.randn(4, 64, dtype=torch.bfloat16))
Int8Linear(weight, torch.ones(32), None, torch.bfloat16)(rows)
"""
_MATMUL_KERNEL = re.compile(r"exec,cpu,(?:matmul|inner_product),([^,]+),")


@dataclass(frozen=True, slots=True)
class KernelProbe:
    """The kernel that an int8 layer ran with, or why there is none that is any good."""

    kernel: str | None
    problem: str = ""


def cpu_name() -> str:
    """The processor's own name."""
    match = re.search(r"model name\s*:\s*(.+)", _read(Path("/proc/cpuinfo")))
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def cpu_features() -> tuple[str, ...]:
    """Those of CPU_FEATURES that this processor has."""
    flags = build.cpu_features()
    return tuple(feature for feature in CPU_FEATURES if feature in flags)


def probe_int8_kernel() -> KernelProbe:
    """Run one small int8 layer and report the kernel; takes the seconds that torch takes."""
    environment = {**os.environ, "ONEDNN_VERBOSE": "1", "OMP_NUM_THREADS": "1"}
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _INT8_PROBE],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return KernelProbe(None, f"the check did not end within {_PROBE_TIMEOUT_S} s")
    if ended.returncode != 0:
        lines = ended.stderr.strip().splitlines()
        return KernelProbe(None, lines[-1] if lines else f"ended with {ended.returncode}")
    match = _MATMUL_KERNEL.search(ended.stdout)
    kernel = match.group(1) if match else "outside oneDNN"
    if kernel.startswith("ref"):
        return KernelProbe(None, f"oneDNN only has the slow reference kernel {kernel}")
    return KernelProbe(kernel)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
