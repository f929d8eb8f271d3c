"""Whether this CPU is one that IPEX has its fast kernels for. Imports neither torch nor IPEX.

Its weight-only multiplications are written for AVX512-FP16 and AMX, that is for Sapphire Rapids and
newer. Anywhere else every call unpacks the whole weight first: right, and slow.
"""

from __future__ import annotations

import re
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
NEEDED_FLAGS = {
    "avx512_fp16": "AVX512-FP16",
    "amx_tile": "AMX",
    "amx_bf16": "AMX-BF16",
    "amx_int8": "AMX-INT8",
}


def missing_instructions(cpu_info: Path = CPU_INFO) -> tuple[str, ...]:
    """What this CPU lacks of what IPEX's kernels are written for; none: they are used."""
    flags = _flags(cpu_info)
    return tuple(name for flag, name in NEEDED_FLAGS.items() if flag not in flags)


def slow_cpu_warning(cpu_info: Path = CPU_INFO) -> str | None:
    """The sentence for a CPU without IPEX's kernels, or None."""
    missing = missing_instructions(cpu_info)
    if not missing:
        return None
    return (
        f"this CPU has no {', '.join(missing)}, which IPEX's weight-only kernels are written for: "
        "the ipex backend is correct here and several times slower than the native one; "
        "take --backend native"
    )


def _flags(cpu_info: Path) -> frozenset[str]:
    try:
        text = cpu_info.read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^flags\s*:(.*)$", text, flags=re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()
