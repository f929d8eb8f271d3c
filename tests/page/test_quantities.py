"""Numbers, times and axes as the page says them."""

from __future__ import annotations

import pytest

from api.site.plot import plot_of
from api.site.quantities import ago, count, iso, milliseconds, rate, seconds, size, utc
from models.store.charts import TokenSeries


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (count(12_345), "12,345"),
        (rate(None), "-"),
        (rate(0.0), "0"),
        (rate(0.417), "0.42"),
        (rate(14.36), "14.4"),
        (rate(1_284.4), "1,284"),
        (seconds(None), "-"),
        (seconds(8.44), "8.4 s"),
        (seconds(12.9), "12 s"),
        (seconds(200), "3 min 20 s"),
        (seconds(7_500), "2 h 05 min"),
        (milliseconds(0.0004), "0.4 ms"),
        (milliseconds(0.1204), "120 ms"),
        (milliseconds(1.25), "1.2 s"),
        (size(None), "-"),
        (size(1_500_000_000), "1.5 GB"),
        (ago(100.0, 100.4), "just now"),
        (ago(100.0, 112.9), "12 s ago"),
        (ago(0.0, 3_599.0), "59 min ago"),
        (ago(0.0, 200_000.0), "2 d ago"),
        (iso(1_700_000_000), "2023-11-14T22:13:20+00:00"),
        (utc(1_700_000_000), "2023-11-14 22:13:20 UTC"),
    ],
)
def test_quantities_read_well(shown: str, text: str) -> None:
    assert shown == text


def test_a_plot_ends_at_round_numbers() -> None:
    rates = tuple(float(number) for number in range(30))
    plot = plot_of(TokenSeries(began_at=0, span_s=10, rates=rates))
    assert plot.rate_labels == ("0", "20", "40")
    assert plot.time_labels == ("0 s", "2 min 30 s", "5 min")
    assert (plot.bars[29].height, plot.bars[29].y) == (72.5, 27.5)
    assert plot.bars[29].x + plot.bars[29].width < 100
    assert plot.description == (
        "Between 0 and 29.0 tokens a second, 14.5 on average, in spans of 10 s."
    )


def test_a_young_plot_leaves_room() -> None:
    plot = plot_of(TokenSeries(began_at=0, span_s=1, rates=(0.0, 0.0)))
    assert plot.rate_labels == ("0", "0.5", "1")
    assert plot.time_labels == ("0 s", "12 s", "24 s")
    assert [bar.height for bar in plot.bars] == [0, 0]
