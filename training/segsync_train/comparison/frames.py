"""Scores, summaries and ranks as data frames, for a notebook; the tables and the page are made of them.

    from segsync_train.comparison.frames import read_frames
    frames = read_frames(["runs/scores/pretrained", "runs/scores/scratch"])
    frames.summary.query("metric == 'dice'")

A row is one fact; `data` and `trained_on` name its setting, within which alone systems are compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from segsync_train.comparison.grouping import group_runs, reference_of
from segsync_train.comparison.ranking import rank
from segsync_train.comparison.scores import METRICS, Setting, read_runs
from segsync_train.comparison.statistics import Values, difference, holm
from segsync_train.evaluation.summary import Statistic

SETTING = ["data", "trained_on"]
SUMMARY = [
    *SETTING, "label", "name", "system", "metric", "cases", "undefined", "mean", "sd", "median",
    "compared", "difference", "low", "high", "p", "p_holm", "effect", "seeds", "reference_seeds",
]  # fmt: skip
#: Columns that the reference has no value in.
TYPES = {
    **dict.fromkeys(("compared", "seeds", "reference_seeds"), "Int64"),
    **dict.fromkeys(("difference", "low", "high", "p", "p_holm", "effect"), "float64"),
}


@dataclass(frozen=True)
class Frames:
    """What is known of some systems, as `pandas.DataFrame`s. What is undefined is NaN, or NA among counts.

    Attributes:
        scores: A row for each case, label and system: `data`, `trained_on`, `system`, `label` (0: the mean of labels),
            `name` (of the label), `case`, then the metrics `dice`, `hd_mm`, `hd95_mm`, `assd_mm` and
            `relative_volume_difference`. Of a system's several runs it is the mean.
        summary: A row for each label, system and metric: `cases` with a value and those `undefined`; `mean`, `sd`,
            `median`; then, of the system minus the reference in the same cases: how many were `compared`, the mean
            `difference` with its 95 % interval (`low`, `high`), Wilcoxon's `p`, the same after Holm's correction over
            the systems (`p_holm`), and the rank-biserial correlation (`effect`).
        ranks: A row for each system and metric, of the mean of labels: its `rank` by the mean over all cases; when the
            cases are drawn anew, the `median` rank, the ranks between which 95 % of the draws lie (`low`, `high`) and
            the fraction of draws with each rank (`at_1`, `at_2` …); `tau`: how far the draws agree with all cases.
    """

    scores: pd.DataFrame
    summary: pd.DataFrame
    ranks: pd.DataFrame


def read_frames(runs: Sequence[str | Path], *, reference: str | None = None) -> Frames:
    """Read folders of scores, and compare what is in them.

    Args:
        runs: Folders that `segsync-train evaluate` wrote, or `NAME=FOLDER`, at least two systems.
        reference: The system that the others are compared with; None takes 3D-SegSync, or else the first.

    Returns:
        The frames.

    Raises:
        InputError: Runs that cannot be compared, or no system of that name.
    """
    read = read_runs([str(run) for run in runs])
    chosen = reference_of([run.name for run in read], reference)
    return frames_of(group_runs(read, chosen), chosen)


def frames_of(settings: Sequence[Setting], reference: str) -> Frames:
    """The frames of settings that were read before."""
    return Frames(
        scores=pd.concat(map(_scores, settings), ignore_index=True),
        summary=summary_of(settings, reference),
        ranks=pd.DataFrame([row for setting in settings for row in _ranks(setting)]),
    )


def within(frame: pd.DataFrame, setting: Setting, **wanted: object) -> pd.DataFrame:
    """The rows of one setting, and of these values of other columns."""
    chosen = (frame["data"] == setting.data) & (frame["trained_on"] == setting.trained_on)
    for column, value in wanted.items():
        chosen &= frame[column] == value
    return frame[chosen]


def summary_of(settings: Sequence[Setting], reference: str) -> pd.DataFrame:
    """The summary of `Frames`; a setting without the reference has no differences."""
    rows = [row for setting in settings for row in _summary(setting, reference)]
    return pd.DataFrame(rows, columns=SUMMARY).astype(TYPES)


def statistics_of(values: Values) -> pd.DataFrame:
    """`cases`, `undefined`, `mean`, `sd` and `median` of each row of values (rows, cases)."""
    found = [asdict(Statistic.of(row.tolist())) for row in values]
    frame = pd.DataFrame(found).rename(columns={"n": "cases"})
    return frame.astype({"mean": float, "sd": float, "median": float})


def _scores(setting: Setting) -> pd.DataFrame:
    keys = product(setting.systems, setting.labels.items(), setting.cases)
    about = [(setting.data, setting.trained_on, system, *label, case) for system, label, case in keys]
    values = np.moveaxis(setting.values, 0, -1).reshape(-1, len(METRICS))
    frame = pd.DataFrame(about, columns=[*SETTING, "system", "label", "name", "case"])
    return frame.join(pd.DataFrame(values, columns=[metric.key for metric in METRICS]))


def _summary(setting: Setting, reference: str) -> Iterator[dict[str, Any]]:
    for (label, name), metric in product(setting.labels.items(), METRICS):
        statistics = statistics_of(setting.of(metric, label)).to_dict("records")
        own = {system: setting.seeds_of(metric, system, label) for system in setting.systems}
        others = [system for system in setting.systems if system != reference and reference in own]
        found = {system: difference(own[system], own[reference]) for system in others}
        corrected = dict(zip(others, holm([one.p for one in found.values()]), strict=True))
        for system, statistic in zip(setting.systems, statistics, strict=True):
            row = {
                "data": setting.data, "trained_on": setting.trained_on, "label": label, "name": name, "system": system,
                "metric": metric.key, **statistic,
            }  # fmt: skip
            if system in found:
                one = found[system]
                row |= {
                    "compared": one.n, "difference": one.mean, "low": one.low, "high": one.high, "p": one.p,
                    "p_holm": corrected[system], "effect": one.effect, "seeds": one.seeds[0],
                    "reference_seeds": one.seeds[1],
                }  # fmt: skip
            yield row


def _ranks(setting: Setting) -> Iterator[dict[str, Any]]:
    for metric in METRICS:
        found = rank(setting.of(metric), larger_is_better=metric.larger_is_better)
        tau = float(np.nanmean(found.tau)) if np.isfinite(found.tau).any() else np.nan
        for place, system in enumerate(setting.systems):
            yield {
                "data": setting.data, "trained_on": setting.trained_on, "metric": metric.key, "system": system,
                "rank": int(found.ranks[place]), "median": float(found.medians[place]),
                "low": float(found.intervals[0, place]), "high": float(found.intervals[1, place]), "tau": tau,
                **{f"at_{n}": float(fraction) for n, fraction in enumerate(found.fractions[place], start=1)},
            }  # fmt: skip
