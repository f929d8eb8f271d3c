"""Measures the machine's limits with limits.c: int8, bf16, and reading memory."""

from __future__ import annotations

import subprocess
from pathlib import Path

from models.generation import Frozen

_SOURCE = Path(__file__).with_name("limits.c")
_BURST_S = 0.3


class Limits(Frozen):
    """What all cores together reach; None where the CPU has no such instruction."""

    int8_ops_per_s: float | None
    bf16_flops_per_s: float | None
    memory_bytes_per_s: float


def build_limits(folder: Path) -> Path:
    """Compile the program with the machine's C compiler. Raises FileNotFoundError without one."""
    program = folder / "limits"
    subprocess.run(["cc", "-O3", "-pthread", "-o", str(program), str(_SOURCE)], check=True)
    return program


def measure_limits(program: Path, burst_s: float = _BURST_S) -> Limits:
    """Run it: fifteen bursts, and filling the memory that is read."""
    done = subprocess.run([program, str(burst_s)], check=True, capture_output=True, text=True)
    return Limits.model_validate_json(done.stdout)


def best_limits(measured: list[Limits]) -> Limits:
    """The highest of each: what other programs took away is no limit of the machine.

    Raises ValueError for an empty list.
    """
    return Limits(
        int8_ops_per_s=_best([limits.int8_ops_per_s for limits in measured]),
        bf16_flops_per_s=_best([limits.bf16_flops_per_s for limits in measured]),
        memory_bytes_per_s=max(limits.memory_bytes_per_s for limits in measured),
    )


def _best(rates: list[float | None]) -> float | None:
    return max((rate for rate in rates if rate is not None), default=None)
