"""Five seeds of random faults; `make nemesis SEEDS=100` runs more."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.faults.run_nemesis import SECONDS, run_apart

SEEDS = range(1, 6)
AT_ONCE = 3


@pytest.mark.matrix
@pytest.mark.timeout(1200)
def test_random_faults_break_no_promise() -> None:
    with ThreadPoolExecutor(AT_ONCE) as jobs:
        reports = list(jobs.map(partial(run_apart, seconds=SECONDS), SEEDS))
    red = [report for report in reports if report["violations"]]
    said = [sentence for report in red for sentence in [*report["actions"], *report["violations"]]]
    assert not red, "\n".join(said)
    assert all(report["requests"] > 0 for report in reports)
