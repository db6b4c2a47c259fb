"""What stands in a cell of a table: means, p-values, differences with their intervals."""

import math
from collections.abc import Sequence

from segsync_train.comparison.scores import Metric
from segsync_train.comparison.statistics import Difference
from segsync_train.comparison.table import Bold
from segsync_train.evaluation.summary import Statistic

NOTHING = "–"


def best(column: Sequence[Statistic], metric: Metric) -> list[str]:
    """A column's cells; the best mean, as it is shown, is bold, and so is what ties with it."""
    means = [math.nan if one.mean is None else round(one.mean, metric.digits) for one in column]
    known = [mean for mean in means if not math.isnan(mean)]
    top = (max(known) if metric.larger_is_better else min(known)) if len(known) > 1 else math.nan
    cells = zip(column, means, strict=True)
    return [Bold(shown(one, metric)) if mean == top else shown(one, metric) for one, mean in cells]


def shown(statistic: Statistic, metric: Metric) -> str:
    """Mean ± standard deviation, and of how many cases where not of all."""
    if statistic.mean is None:
        return NOTHING
    fewer = f" (n={statistic.n})" if statistic.undefined else ""
    return number(statistic.mean, math.nan if statistic.sd is None else statistic.sd, metric) + fewer


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


def interval(difference: Difference, metric: Metric) -> str:
    """A difference with its confidence interval."""
    if math.isnan(difference.mean):
        return NOTHING
    mean, low, high = (signed(x, metric.digits) for x in (difference.mean, difference.low, difference.high))
    return mean if math.isnan(difference.low) else f"{mean} [{low}, {high}]"
