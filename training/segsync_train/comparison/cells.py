"""What stands in a cell of a table: means, p-values, differences with their intervals."""

import math
from typing import Protocol

import pandas as pd

from segsync_train.comparison.scores import Metric
from segsync_train.comparison.table import Bold

NOTHING = "–"


class Statistics(Protocol):
    """A row of `frames.statistics_of`; NaN where undefined."""

    cases: int
    undefined: int
    mean: float
    sd: float


def best(column: pd.DataFrame, metric: Metric) -> list[str]:
    """A column's cells; the best mean, as it is shown, is bold, and so is what ties with it.

    Args:
        column: A row for each cell, as `frames.statistics_of` gives them.
        metric: Its digits, and which mean is best.

    Returns:
        The cells.
    """
    means = column["mean"].round(metric.digits)
    top = (means.max() if metric.larger_is_better else means.min()) if means.count() > 1 else math.nan
    cells = [shown(row, metric) for row in column.itertuples()]
    return [Bold(cell) if mean == top else cell for cell, mean in zip(cells, means, strict=True)]


def shown(statistic: Statistics, metric: Metric) -> str:
    """Mean ± standard deviation, and of how many cases where not of all."""
    if math.isnan(statistic.mean):
        return NOTHING
    fewer = f" (n={statistic.cases})" if statistic.undefined else ""
    return number(statistic.mean, statistic.sd, metric) + fewer


def number(mean: float, sd: float, metric: Metric) -> str:
    """A mean, with its standard deviation if that is known."""
    if math.isnan(mean):
        return NOTHING
    spread = "" if math.isnan(sd) else f" ± {sd:.{metric.digits}f}"
    return f"{mean:.{metric.digits}f}{spread}"


def p_value(p: float) -> str:
    """Three digits, as papers print it."""
    return NOTHING if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def signed(value: float, digits: int) -> str:
    """A number with its sign, a minus being one."""
    return NOTHING if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def interval(mean: float, low: float, high: float, metric: Metric) -> str:
    """A difference with its confidence interval."""
    if math.isnan(mean):
        return NOTHING
    shown_mean, *ends = (signed(value, metric.digits) for value in (mean, low, high))
    return shown_mean if math.isnan(low) else f"{shown_mean} [{ends[0]}, {ends[1]}]"
