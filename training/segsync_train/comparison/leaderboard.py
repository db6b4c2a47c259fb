"""The table of a challenge: systems ranked in each case and metric by its rules, then by their mean rank."""

import csv
from collections.abc import Mapping, Sequence

import numpy as np

from segsync.arrays import FloatArray
from segsync_train.comparison.cells import best
from segsync_train.comparison.frames import statistics_of
from segsync_train.comparison.scores import MEAN, Metric, Run, Setting
from segsync_train.comparison.table import Section, Table
from segsync_train.evaluation.leaderboard import case_ranks
from segsync_train.evaluation.metrics import RULES, Rules
from segsync_train.evaluation.summary import CASES_FILE, SHOWN

TITLES = {metric: title for metric, title, _ in SHOWN}
RANK = Metric("rank", "mean rank", 2)

#: Of one metric, by case and label.
Column = Mapping[tuple[str, int], float]


def leaderboard_table(setting: Setting) -> Table | None:
    """Mean ranks of a setting's systems by the rules that they were scored with.

    Every label of every case ranks for itself; a case's value is the mean over a system's runs. A metric that some
    folder lacks, as the area of probability maps that were not scored, is left out and named in the note.

    Args:
        setting: Systems that were scored on the same cases.

    Returns:
        The table, best system first; None for a single system, or rules that are not known.
    """
    runs = [run for own in setting.runs.values() for run in own]
    rules = RULES.get(runs[0].system.rules)
    if rules is None or len(setting.systems) < 2:
        return None
    read = {run.folder: _read(run, rules.ranked) for run in runs}
    metrics = [metric for metric in rules.ranked if all(metric in columns for columns in read.values())]
    labels = [label for label in setting.labels if label != MEAN]
    places = [(case, label) for label in labels for case in setting.cases]
    values = np.array(
        [
            [_means([read[run.folder][metric] for run in setting.runs[system]], places) for system in setting.systems]
            for metric in metrics
        ]
    )
    ranks = case_ranks(values, metrics)
    total = ranks.mean(axis=0)
    cells = [best(statistics_of(column), RANK) for column in (*ranks, total)]
    order = np.argsort(total.mean(axis=1), kind="stable")
    rows = tuple((setting.systems[n], *(column[n] for column in cells)) for n in order)
    title = f"{setting.title}: ranked as on a leaderboard"
    head = ("System", *(TITLES[metric] for metric in metrics), RANK.title)
    return Table(f"leaderboard-{setting.slug}", title, head, (Section("", rows),), _note(rules, metrics, len(places)))


def _note(rules: Rules, metrics: Sequence[str], places: int) -> str:
    missing = [TITLES[metric] for metric in rules.ranked if metric not in metrics]
    return (
        f"{rules.title}. In each metric every case ranks the systems: 1 is best, ties share the mean of their ranks, "
        f"what is undefined is last. Mean ± SD of the ranks over {places} cases and labels."
        + (f" Not ranked, since not every folder holds it: {', '.join(missing)}." if missing else "")
    )


def _read(run: Run, metrics: Sequence[str]) -> dict[str, Column]:
    """Those of the metrics that the run's scores hold, of the labels that are compared."""
    with (run.folder / CASES_FILE).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["label"]) in run.labels]
    return {
        metric: {(row["case"], int(row["label"])): float(row[metric] or "nan") for row in rows}
        for metric in metrics
        if metric in rows[0]
    }


def _means(columns: Sequence[Column], places: Sequence[tuple[str, int]]) -> FloatArray:
    """The mean of each place over the runs that scored it; NaN where one of them is undefined there."""
    means: FloatArray = np.array(
        [np.mean([column[place] for column in columns if place in column]) for place in places]
    )
    return means
