"""Results files: whole, readable again, and telling which trials are still to be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.prepare import PROJECT
from benchmarks.results import read_document, write_document
from benchmarks.tables import render, rows_of, share_of_limit
from tests.benchmarks.documents import document, trial


def test_a_document_survives_its_file(tmp_path: Path) -> None:
    written = document(trial("nightshift-int8", "A", 1, 60.0), trial("vllm-w8a8", "A", 1, None))
    write_document(written, tmp_path / "results.json")
    assert read_document(tmp_path / "results.json") == written
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_the_documented_tables_are_those_of_the_results() -> None:
    text = (PROJECT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    files = sorted((PROJECT / "benchmarks" / "results").glob("*.json"))
    assert files
    for path in files:
        assert render(read_document(path)) in text
        assert path.relative_to(PROJECT).as_posix() in text


def test_a_file_with_unknown_fields_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_document(document(), path)
    path.write_text(path.read_text().replace('"format"', '"fromat"'))
    with pytest.raises(ValueError, match="fromat"):
        read_document(path)


def test_void_trials_are_kept_but_run_again() -> None:
    results = document(trial("nightshift-int8", "A", 1, 60.0, void="counts"))
    assert len(results.trials) == 1
    assert not results.has("nightshift-int8", "A", 1)
    assert results.median_seconds("nightshift-int8", "A") is None
    again = results.with_trial(trial("nightshift-int8", "A", 1, 61.0))
    assert again.has("nightshift-int8", "A", 1)
    assert not again.has("nightshift-int8", "B", 1)


def test_a_row_shows_the_median_and_the_spread_of_its_trials() -> None:
    seconds = (70.0, 50.0, 52.0)
    results = document(
        *(trial("nightshift-int8", "A", n + 1, value) for n, value in enumerate(seconds))
    )
    assert results.median_seconds("nightshift-int8", "A") == 52.0
    # 41.2 tera-operations in 52 s of 1 tera-operation a second.
    assert "| A | nightshift-int8 | 52.0 | 50.0 | 70.0 | 3 | 401 | 79% int8 |" in render(results)


def test_ratios_compare_trials_of_the_same_round() -> None:
    results = document(
        *(trial("nightshift-int8", "A", number, 30.0 * number) for number in (1, 2, 3)),
        *(trial("vllm-w8a8", "A", number, 40.0) for number in (1, 2)),
    )
    assert "| A | nightshift-int8 | vllm-w8a8 | 1.50 | 0.75 | 1.50 | 2 |" in render(results)


def test_one_request_alone_is_held_against_reading_the_weights() -> None:
    results = document(
        trial("nightshift-int8", "single", 1, 8.0), trial("nightshift-bf16", "single", 1, 8.0)
    )
    int8 = share_of_limit(results, "nightshift-int8", "single")
    bf16 = share_of_limit(results, "nightshift-bf16", "single")
    assert int8 is not None
    assert bf16 is not None
    assert int8[0] == pytest.approx(128 * 1_034_420_224 / 8.0 / 3e10)
    assert bf16[0] == pytest.approx(2 * int8[0])
    assert int8[1] == bf16[1] == "memory"


def test_short_work_is_held_against_the_time_in_the_model() -> None:
    told = trial("nightshift-run", "short", 1, 20.0)
    told = told.model_copy(update={"figures": {"seconds_forward": 15.0}})
    assert share_of_limit(document(told), "nightshift-run", "short") == (0.75, "forward")
    untold = trial("nightshift-run", "short", 1, 20.0)
    assert share_of_limit(document(untold), "nightshift-run", "short") is None


def test_rows_come_in_a_fixed_order() -> None:
    results = document(
        trial("vllm-w8a8", "B", 1, 1.0),
        trial("vllm-w8a8", "A", 1, 1.0),
        trial("nightshift-int8", "A", 1, 1.0),
        trial("nightshift-int4", "A", 1, 1.0, void="counts"),
    )
    assert rows_of(results) == [("A", "nightshift-int8"), ("A", "vllm-w8a8"), ("B", "vllm-w8a8")]
    assert "nightshift-int4, A, 1: counts" in render(results)
