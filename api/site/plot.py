"""A series as the bars of a plot, in a box of 100 by 100 that is stretched to the place it gets.

Must not know SVG: the template draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from api.site.quantities import rate, seconds
from models.store.charts import TokenSeries

_MIN_SLOTS = 24  # a young batch's few bars stay slender
_BAR_SHARE = 0.82  # of a slot; the rest is the gap
_STEPS = (1.0, 2.0, 4.0, 5.0, 8.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One span; `begin` and `rate` are for people."""

    x: float
    y: float
    width: float
    height: float
    begin: str
    rate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Bars with the labels of both axes, from their origin on."""

    bars: tuple[Bar, ...]
    rate_labels: tuple[str, str, str]
    time_labels: tuple[str, str, str]
    span: str
    description: str


def plot_of(series: TokenSeries) -> Plot:
    """The plot of tokens a second."""
    n_slots = max(len(series.rates), _MIN_SLOTS)
    top = _round_up(max(series.rates))
    width = 100 / n_slots
    bars = tuple(
        Bar(
            x=round(number * width, 3),
            y=round(100 - 100 * value / top, 3),
            width=round(width * _BAR_SHARE, 3),
            height=round(100 * value / top, 3),
            begin=seconds(number * series.span_s),
            rate=rate(value),
        )
        for number, value in enumerate(series.rates)
    )
    total_s = n_slots * series.span_s
    return Plot(
        bars=bars,
        rate_labels=("0", _label(top / 2), _label(top)),
        time_labels=("0 s", _clock(total_s / 2), _clock(total_s)),
        span=_clock(series.span_s),
        description=_description(series),
    )


def _description(series: TokenSeries) -> str:
    average = sum(series.rates) / len(series.rates)
    return (
        f"Between {rate(min(series.rates))} and {rate(max(series.rates))} tokens a second, "
        f"{rate(average)} on average, in spans of {_clock(series.span_s)}."
    )


def _round_up(value: float) -> float:
    """The next round number, so that the axis stays while the bars grow a little."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step for step in _STEPS if value <= step * power) * power


def _label(value: float) -> str:
    return f"{value:,.10g}"


def _clock(duration_s: float) -> str:
    return seconds(duration_s).replace(" 00 s", "").replace(" 00 min", "").replace(".0 s", " s")
