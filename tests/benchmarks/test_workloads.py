"""The workloads: exact token counts, the same numbers every time."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.shapes import SHAPES
from benchmarks.workloads import build_short, build_workload, read_workload, write_workload


@pytest.mark.parametrize(
    ("name", "requests", "input_tokens", "output_tokens"),
    [
        ("A", 96, 13_472, 7_402),
        ("B", 96, 29_694, 6_665),
        ("long", 16, 24_000, 1_024),
        ("single", 1, 32, 128),
    ],
)
def test_a_workload_has_exactly_its_tokens(
    name: str, requests: int, input_tokens: int, output_tokens: int
) -> None:
    workload = build_workload(name)
    assert len(workload.requests) == requests
    assert workload.input_tokens == input_tokens
    assert workload.output_tokens == output_tokens


def test_short_work_is_ten_thousand_different_prompts_of_eight_tokens() -> None:
    workload = build_short(vocabulary=256)
    assert len({request.token_ids for request in workload.requests}) == 10_000
    assert {(len(r.token_ids), r.output_tokens) for r in workload.requests} == {(8, 4)}
    assert max(max(request.token_ids) for request in workload.requests) < 256


def test_only_work_b_shares_a_prefix() -> None:
    for name, shared in (("A", 0), ("B", 256), ("long", 0)):
        workload = build_workload(name)
        assert workload.shared_prefix_tokens == shared
        assert len({request.token_ids[:shared] for request in workload.requests}) == 1
        assert len({request.token_ids[shared : shared + 8] for request in workload.requests}) > 1


def test_the_warm_up_teaches_no_cache_a_measured_prompt() -> None:
    for name in ("A", "B", "long", "single"):
        workload = build_workload(name)
        known = {request.token_ids[:16] for request in workload.warmup}
        assert not known & {request.token_ids[:16] for request in workload.requests}


def test_a_workload_survives_its_file(tmp_path: Path) -> None:
    write_workload(build_workload("B"), tmp_path / "b.json")
    assert read_workload(tmp_path / "b.json") == build_workload("B")


def test_the_arithmetic_of_work_a_is_known() -> None:
    shape = SHAPES["1.1b"]
    assert shape.layer_weights == 968_884_224
    # 20,778 tokens through the layers (the last of each answer never), 7,402 rows of logits.
    assert shape.linear_operations(build_workload("A")) == 2 * (
        20_778 * 968_884_224 + 7_402 * 65_536_000
    )


def test_a_shared_prefix_has_to_be_computed_once() -> None:
    workload = build_workload("B")
    assert workload.least_forward_tokens == 29_694 - 95 * 256 + 6_665 - 96
