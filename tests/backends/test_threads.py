"""How many threads an engine gets when nobody says how many."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.backends.threads import SMALL_WEIGHTS_BYTES, compute_threads


@pytest.mark.parametrize(
    ("sizes", "threads"),
    [
        ([SMALL_WEIGHTS_BYTES - 1], 1),
        ([SMALL_WEIGHTS_BYTES], 3),
        ([SMALL_WEIGHTS_BYTES // 2, SMALL_WEIGHTS_BYTES - SMALL_WEIGHTS_BYTES // 2], 3),
        ([], 1),
    ],
)
def test_a_small_model_gets_one_thread_and_others_all(
    sizes: list[int], threads: int, tmp_path: Path
) -> None:
    for number, size in enumerate(sizes):
        with (tmp_path / f"tensors-{number}.safetensors").open("wb") as file:
            file.truncate(size)
    (tmp_path / "tokenizer.json").write_bytes(bytes(SMALL_WEIGHTS_BYTES))  # no weights
    assert compute_threads(tmp_path, cores=3) == threads
