"""The program that measures the machine's limits: it compiles here and its figures make sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.limits import best_limits, build_limits, measure_limits
from benchmarks.machine import describe_machine
from tests.benchmarks.documents import LIMITS


def test_the_program_measures_what_this_cpu_has(tmp_path: Path) -> None:
    limits = measure_limits(build_limits(tmp_path), burst_s=0.01)
    flags = describe_machine().flags
    assert limits.memory_bytes_per_s > 1e8
    for rate, flag in (
        (limits.int8_ops_per_s, "avx512_vnni"),
        (limits.bf16_flops_per_s, "avx512_bf16"),
    ):
        if flag in flags:
            assert rate is not None
            assert 1e9 < rate < 1e15
        else:
            assert rate is None


def test_the_best_of_several_measurements_is_the_limit() -> None:
    slowed = LIMITS.model_copy(update={"int8_ops_per_s": 1e11, "memory_bytes_per_s": 4e10})
    best = best_limits([LIMITS, slowed])
    assert best.int8_ops_per_s == LIMITS.int8_ops_per_s
    assert best.memory_bytes_per_s == 4e10


def test_a_cpu_without_an_instruction_has_no_limit_for_it() -> None:
    limits = LIMITS.model_copy(update={"bf16_flops_per_s": None})
    assert best_limits([limits, limits]).bf16_flops_per_s is None


def test_no_measurement_is_no_limit() -> None:
    with pytest.raises(ValueError, match="empty"):
        best_limits([])
