"""Results made up for tests."""

from __future__ import annotations

from datetime import UTC, datetime

from benchmarks.limits import Limits
from benchmarks.machine import Machine
from benchmarks.prepare import make_workload
from benchmarks.results import Document, Trial

MACHINE = Machine(
    cpu="Test CPU",
    cores=2,
    flags=("avx512_vnni",),
    memory_bytes=24 * 1024**3,
    kernel="6.1",
    python="3.11.7",
)
LIMITS = Limits(int8_ops_per_s=1e12, bf16_flops_per_s=5e11, memory_bytes_per_s=3e10)


def trial(
    engine: str, work: str, number: int, seconds: float | None, void: str | None = None
) -> Trial:
    """A trial with the tokens that its work asks for."""
    workload = make_workload(work)
    return Trial(
        engine=engine,
        work=work,
        number=number,
        void=void,
        seconds=seconds,
        load_seconds=1.5,
        input_tokens=workload.input_tokens,
        output_tokens=workload.output_tokens,
        peak_rss_bytes=2 * 10**9,
        settings={"sequences": 96},
        versions={"torch": "2.13.0"},
        figures={"steps": 100.0},
        commit="0123456789ab",
        started=datetime(2026, 1, 1, tzinfo=UTC),
        load_average=0.5,
        other_cpu_seconds=1.0,
    )


def document(*trials: Trial) -> Document:
    """A document of the full-size model."""
    return Document(
        shape="1.1b", machine=MACHINE, versions={"torch": "2.13.0"}, limits=(LIMITS,), trials=trials
    )
