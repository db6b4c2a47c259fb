"""What an evaluation found: a row a case and label, and its mean and standard deviation as CSV, JSON and a table."""

import csv
import io
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from rich.table import Table

from segsync.atomic import write_texts
from segsync_train.evaluation.metrics import Rules, Scores

log = logging.getLogger(__name__)

CASES_FILE = "cases.csv"
METRICS = tuple(field.name for field in fields(Scores))
#: What the table shows, with its heading and the digits after the point.
SHOWN = (
    ("dice", "Dice", 3),
    ("hd_mm", "HD mm", 2),
    ("hd95_mm", "HD95 mm", 2),
    ("assd_mm", "ASSD mm", 2),
    ("volume_difference_ml", "volume difference ml", 2),
    ("lesion_f1", "lesion F1", 3),
    ("lesion_count_difference", "lesion difference", 2),
    ("pr_auc", "PR area", 3),
)


@dataclass(frozen=True)
class Row:
    """One label of one case."""

    case: str
    label: int
    name: str
    scores: Scores


@dataclass(frozen=True)
class Statistic:
    """Over cases.

    Attributes:
        n: Cases with a value.
        undefined: Cases without.
        mean: Of the values.
        sd: Standard deviation of a sample, by n − 1.
        median: Of the values.
    """

    n: int
    undefined: int
    mean: float | None
    sd: float | None
    median: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> "Statistic":
        """The statistic of what is a number among the values."""
        every = np.array(list(values), dtype=np.float64)
        known = every[np.isfinite(every)]
        n = len(known)
        return cls(
            n=n,
            undefined=len(every) - n,
            mean=float(known.mean()) if n else None,
            sd=float(known.std(ddof=1)) if n > 1 else None,
            median=float(np.median(known)) if n else None,
        )


@dataclass(frozen=True)
class Group:
    """Statistics of one label, or of the mean over labels (label 0), over all cases or those with or without it."""

    label: int
    name: str
    cases: Literal["all", "with", "without"]
    metrics: Mapping[str, Statistic]
    #: Whether a reference holds the label; one that none holds is left out of the mean over labels.
    occurs: bool = True


def measured(rows: Sequence[Row]) -> tuple[str, ...]:
    """The metrics that these rows hold: without `pr_auc` where no probability map was scored."""
    return tuple(metric for metric in METRICS if any(getattr(row.scores, metric) is not None for row in rows))


def summarise(rows: Sequence[Row]) -> list[Group]:
    """Statistics of each label, and with several labels of the mean over them in each case (the paper's `Avg`).

    The mean of a case in which a label was missed has no distance and is counted as undefined.
    Where the references of some cases lack a label, its cases with and without it are summarised apart as well. A label
    that no reference holds is left out of the mean: there Dice is 1 wherever nothing is found.
    """
    groups = []
    labels = {row.label: row.name for row in rows}
    nowhere = never_held(rows)
    for label, name in labels.items():
        own = [row for row in rows if row.label == label]
        groups.append(_group(label, name, "all", own, occurs=label not in nowhere))
        present = [row for row in own if row.scores.lesions]
        absent = [row for row in own if not row.scores.lesions]
        if present and absent:
            groups += [_group(label, name, "with", present), _group(label, name, "without", absent)]
    if len(labels) > 1:
        cases: dict[str, list[Scores]] = {}
        for row in rows:
            if row.label not in nowhere:
                cases.setdefault(row.case, []).append(row.scores)
        means = {
            metric: Statistic.of(_mean_of_labels(scores, metric) for scores in cases.values())
            for metric in measured(rows)
        }
        groups.append(Group(0, "mean of labels", "all", means))
    return groups


def never_held(rows: Sequence[Row]) -> dict[int, str]:
    """The labels that no reference holds, though some hold another one; none where all are without any lesion."""
    labels = {row.label: row.name for row in rows}
    held = {row.label for row in rows if row.scores.lesions}
    return {label: name for label, name in labels.items() if label not in held} if held else {}


def _mean_of_labels(scores: Sequence[Scores], metric: str) -> float:
    """The mean over one case's labels; NaN where there is nothing to average.

    A label that is undefined because the reference has none of it is left out. Undefined though the reference has it,
    as the distance to a label that was missed, it makes the mean NaN: whoever finds less must not gain by it.
    """
    values = [getattr(one, metric) for one in scores]
    counted = [value for value, one in zip(values, scores, strict=True) if one.lesions or not math.isnan(value)]
    return float(np.mean(counted)) if counted else math.nan


def _group(
    label: int, name: str, cases: Literal["all", "with", "without"], rows: Sequence[Row], *, occurs: bool = True
) -> Group:
    metrics = {metric: Statistic.of(getattr(row.scores, metric) for row in rows) for metric in measured(rows)}
    return Group(label, name, cases, metrics, occurs)


def write_results(
    rows: Sequence[Row], rules: Rules, folder: Path, scored: Mapping[str, object] | None = None
) -> list[Group]:
    """Write `cases.csv`, `summary.csv` and `summary.json`.

    Args:
        rows: The scores of every case and label.
        rules: By which they were scored.
        folder: Of the files.
        scored: What else `summary.json` says of that which was scored.

    Returns:
        The summary.

    Raises:
        OutputError: The folder cannot be written.
    """
    groups = summarise(rows)
    for label, name in never_held(rows).items():
        log.warning(
            "label %d (%s): no reference holds it; it is left out of the mean of labels. Check the names and values of "
            "the labels", label, name,
        )  # fmt: skip
    metrics = measured(rows)
    every = [[row.case, row.label, row.name, *(getattr(row.scores, metric) for metric in metrics)] for row in rows]
    flat = [
        [group.label, group.name, group.cases, str(group.occurs).lower(), metric, *asdict(statistic).values()]
        for group in groups
        for metric, statistic in group.metrics.items()
    ]
    statistic_names = [field.name for field in fields(Statistic)]
    about = {
        **(scored or {}),
        "rules": asdict(rules),
        "cases": len({row.case for row in rows}),
        "groups": [asdict(group) for group in groups],
    }
    texts = {
        CASES_FILE: csv_of(["case", "label", "name", *metrics], every),
        "summary.csv": csv_of(["label", "name", "cases", "occurs", "metric", *statistic_names], flat),
        "summary.json": json.dumps(about, indent=2) + "\n",
    }
    write_texts(texts, folder)
    return groups


def csv_of(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV; what is not defined is an empty cell."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(heading)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return file.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else value


def table_of(groups: Sequence[Group], rules: Rules) -> Table:
    """The summary for a terminal: mean ± standard deviation."""
    table = Table(title=f"mean ± SD; {rules.title}", title_justify="left")
    table.add_column("label")
    table.add_column("cases", justify="right")
    columns = [column for column in SHOWN if any(column[0] in group.metrics for group in groups)]
    for _, heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for group in groups:
        name = group.name if group.cases == "all" else f"  {group.cases} it"
        name += "" if group.occurs else ", in no reference"
        dice = group.metrics["dice"]
        shown = [_shown(group.metrics[metric], digits) for metric, _, digits in columns]
        table.add_row(name, str(dice.n), *shown)
    return table


def _shown(statistic: Statistic, digits: int) -> str:
    if statistic.mean is None:
        return "–"
    spread = "" if statistic.sd is None else f" ± {statistic.sd:.{digits}f}"
    fewer = f" (n={statistic.n})" if statistic.undefined else ""
    return f"{statistic.mean:.{digits}f}{spread}{fewer}"
