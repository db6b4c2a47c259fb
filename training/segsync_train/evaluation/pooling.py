"""The out-of-fold predictions of all folds in one table, with confidence intervals over patients."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from scipy import stats

from segsync.arrays import FloatArray
from segsync.atomic import write_texts
from segsync.bundle import InferenceSpec
from segsync.geometry import Volume
from segsync.postprocess import labels_on
from segsync_train.config.run import RunConfig
from segsync_train.evaluation.metrics import RULES
from segsync_train.evaluation.operating_point import FILE as POINT_FILE
from segsync_train.evaluation.operating_point import OperatingPoint, read_operating_point, rules_named
from segsync_train.evaluation.out_of_fold import OutOfFold, read_out_of_fold
from segsync_train.evaluation.prediction_folders import score_case, submitted_maps
from segsync_train.evaluation.summary import Row, csv_of, measured, never_held, write_results
from segsync_train.evaluation.system import SYSTEM_FILE, System, data_name, resolved, system_name
from segsync_train.runs.progress import StepProgress

log = logging.getLogger(__name__)

SCORES, POOLED_FILE = "scores", "pooled.csv"
#: Draws of the bootstrap, and the confidence of its interval.
DRAWS, CONFIDENCE = 9999, 0.95


@dataclass(frozen=True)
class Pooled:
    """One metric of one label: its mean over all cases, its interval, and the mean of each fold."""

    label: int
    name: str
    metric: str
    n: int
    undefined: int
    mean: float
    low: float
    high: float
    folds: tuple[float, ...]


def pool(crossval: Path, config: RunConfig, rules: str | None = None) -> list[Pooled]:
    """Score every case's out-of-fold prediction, at the operating point that `tune` chose on them if it did.

    Writes `pooled.csv`, and `scores/` as `evaluate` does, so that `compare` reads them.

    Args:
        crossval: The folder of a cross-validation whose folds are all predicted.
        config: Its settings.
        rules: A name of `metrics.RULES`; None takes those of the task.

    Returns:
        The table.

    Raises:
        InputError: A fold is missing, or predictions are of other cases.
        OutputError: A file cannot be written.
    """
    chosen = rules_named(rules, config.task)
    everything = read_out_of_fold(crossval)
    tuned = (crossval / POINT_FILE).is_file()
    point = read_operating_point(crossval) if tuned else OperatingPoint()
    if tuned:
        log.warning(
            "%s: the operating point was chosen on these very predictions, so that the pooled scores flatter a little",
            crossval,
        )
    spec = config.inference_spec((1, 1, 1), point.decision).model_copy(update={"organ": None})
    rows = _rows(everything, spec, chosen.name)
    scored = {"operating_point": point.model_dump(mode="json")}
    write_results(rows, chosen, crossval / SCORES, scored)
    own = config.transfer.mode in ("none", "network")  # others are called by their encoder's pretext
    system = System(
        name=system_name(config.network, config.transfer, None) if own else config.name,
        data=data_name(config.data, config.task),
        trained_on=data_name(config.data, config.task),
        rules=chosen.name,
        settings=config.model_dump(mode="json"),
        reference=everything.reference,
        cases=resolved([case.files for case in everything.cases]),
        masks={},
    )
    write_texts({SYSTEM_FILE: system.model_dump_json(indent=2) + "\n"}, crossval / SCORES)
    table = pooled(rows, {case.name: case.fold for case in everything.cases}, _groups(everything), everything.folds)
    write_texts({POOLED_FILE: _csv(table, everything.folds)}, crossval)
    return table


def _groups(everything: OutOfFold) -> dict[str, str]:
    return {case.name: case.group for case in everything.cases}


def _rows(everything: OutOfFold, spec: InferenceSpec, rules: str) -> list[Row]:
    """Every case's scores."""
    rows: list[Row] = []
    with StepProgress("scoring", len(everything.cases)) as progress:
        for case in everything.cases:
            label, probabilities = case.read()
            mask, _ = labels_on(probabilities, label.grid, label.grid, spec)
            maps = submitted_maps(everything.labels.labels, probabilities, mask, label.grid)
            rows += score_case(case.name, label, Volume(mask, label.grid), everything.labels, RULES[rules], maps)
            progress.advance(case.name)
    return rows


def pooled(rows: Sequence[Row], folds: Mapping[str, int], groups: Mapping[str, str], count: int) -> list[Pooled]:
    """The table of rows (a case and label each).

    Args:
        rows: Scores.
        folds: The fold of each case.
        groups: What each case was kept together by: whole groups are drawn for the interval, since the sessions of a
            patient tell less than as many patients.
        count: Number of folds.

    Returns:
        A line for each label and metric; labels that no reference holds are left out.
    """
    nowhere = never_held(rows)
    table = []
    for label, name in {row.label: row.name for row in rows if row.label not in nowhere}.items():
        own = [row for row in rows if row.label == label]
        for metric in measured(rows):
            values = np.array([getattr(row.scores, metric) for row in own], dtype=np.float64)
            known = np.isfinite(values)
            low, high = interval(values[known], [groups[row.case] for row, k in zip(own, known, strict=True) if k])
            by_fold = tuple(
                _mean(np.array([v for v, row in zip(values, own, strict=True) if folds[row.case] == fold]))
                for fold in range(count)
            )
            undefined = int((~known).sum())
            table.append(Pooled(label, name, metric, int(known.sum()), undefined, _mean(values), low, high, by_fold))
    return table


def _mean(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def interval(values: FloatArray, groups: Sequence[str], *, seed: int = 0) -> tuple[float, float]:
    """The mean's 95 % bootstrap interval (BCa) over groups of cases; NaN for fewer than two groups."""
    names = sorted(set(groups))
    if len(names) < 2:
        return math.nan, math.nan
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    place = {name: index for index, name in enumerate(names)}
    index = np.array([place[group] for group in groups])
    sums, counts = np.bincount(index, values), np.bincount(index).astype(np.float64)

    def mean(s: FloatArray, c: FloatArray, axis: int = -1) -> FloatArray:
        found: FloatArray = s.sum(axis=axis) / c.sum(axis=axis)
        return found

    found = stats.bootstrap(
        (sums, counts), mean, paired=True, vectorized=True, n_resamples=DRAWS, confidence_level=CONFIDENCE,
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def _csv(table: Sequence[Pooled], folds: int) -> str:
    heading = ["label", "name", "metric", "n", "undefined", "mean", "low", "high", *(f"fold_{f}" for f in range(folds))]
    lines = [
        [line.label, line.name, line.metric, line.n, line.undefined, line.mean, line.low, line.high, *line.folds]
        for line in table
    ]
    return csv_of(heading, lines)


def pooled_table(table: Sequence[Pooled]) -> Table:
    """The table for a terminal."""
    shown = Table("label", "metric", "cases", "mean", "95 % interval", "folds", title="out of fold, all cases")
    for line in table:
        if not math.isnan(line.mean):
            folds = " ".join(f"{value:.3f}" for value in line.folds)
            interval_ = f"{line.low:.3f} to {line.high:.3f}"
            shown.add_row(line.name, line.metric, str(line.n), f"{line.mean:.3f}", interval_, folds)
    return shown
