"""Folders that `segsync-train evaluate` wrote, read and pooled: one array of scores a setting.

A setting is a data set and what the systems were trained on: only within one are systems compared. Runs of one system
in one setting are its seeds or folds: a case's score is its mean over them.
"""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segsync.errors import InputError
from segsync_train.comparison.statistics import Values
from segsync_train.settings import check_settings
from segsync_train.summary import CASES_FILE, Statistic
from segsync_train.system import SYSTEM_FILE, System

#: The label that stands for the mean over labels, as in `summary.csv`.
MEAN = 0
#: Settings that seeds of one system may differ in.
OWN = ("name", "seed", "device", "workers", "compile", "card", "log_every", "checkpoint_every")
OWN_DATA = ("folder", "sources", "cache", "fold")


@dataclass(frozen=True)
class Metric:
    """A column of the tables: its name in `cases.csv`, its heading and unit, digits after the point."""

    key: str
    title: str
    digits: int
    larger_is_better: bool = False


#: The paper's columns. Its volume difference has no unit: the share of the reference's volume.
METRICS = (
    Metric("dice", "Dice", 3, larger_is_better=True),
    Metric("hd_mm", "HD mm", 2),
    Metric("hd95_mm", "HD95 mm", 2),
    Metric("assd_mm", "ASSD mm", 2),
    Metric("relative_volume_difference", "Vol. diff.", 4),
)
DICE, HD, HD95 = METRICS[:3]


@dataclass(frozen=True)
class Run:
    """One folder of scores. values: the metrics (5,) by case and label; name: of the system."""

    folder: Path
    name: str
    system: System
    labels: Mapping[int, str]
    values: Mapping[tuple[str, int], Values]

    @property
    def cases(self) -> list[str]:
        """The cases that were scored."""
        return list(dict.fromkeys(case for case, _ in self.values))

    @property
    def key(self) -> tuple[str, str]:
        """Its setting: the data set scored, and the one trained on."""
        return self.system.data, self.system.trained_on or self.system.data


@dataclass(frozen=True)
class Setting:
    """Systems that were trained on one data set and scored on the same cases of one.

    labels: by value, with several the mean over them first (`MEAN`). values: (metrics, systems, labels, cases), NaN
    where undefined. runs: those of each system.
    """

    data: str
    trained_on: str
    systems: tuple[str, ...]
    labels: Mapping[int, str]
    cases: tuple[str, ...]
    values: Values
    runs: Mapping[str, tuple[Run, ...]]

    @property
    def crossed(self) -> bool:
        """Whether it was trained on other data than it was scored on."""
        return self.data != self.trained_on

    @property
    def title(self) -> str:
        """The setting in words."""
        return f"{self.data}, trained on {self.trained_on}" if self.crossed else self.data

    @property
    def slug(self) -> str:
        """The setting as a part of a file's name."""
        name = f"{self.data}-from-{self.trained_on}" if self.crossed else self.data
        return "".join(letter if letter.isalnum() or letter in "+-_" else "-" for letter in name)

    @property
    def overall(self) -> int:
        """The label that stands for all: the mean over several, or the only one."""
        return next(iter(self.labels))

    def of(self, metric: Metric, label: int | None = None) -> Values:
        """Values (systems, cases) of one label; None takes `overall`."""
        wanted = self.overall if label is None else label
        values: Values = self.values[METRICS.index(metric), :, list(self.labels).index(wanted)]
        return values


def read_run(argument: str) -> Run:
    """The run of `FOLDER` or `NAME=FOLDER`; raises InputError where the folder holds no scores."""
    folder, name = Path(argument), ""
    if not folder.is_dir() and "=" in argument:
        name, _, rest = argument.partition("=")
        folder = Path(rest)
    for file in (CASES_FILE, SYSTEM_FILE):
        if not (folder / file).is_file():
            raise InputError(
                f"{folder}: expected scores of segsync-train evaluate ({CASES_FILE}, {SYSTEM_FILE}), found no {file}; "
                "evaluate the run and give that folder"
            )
    try:
        about: Any = json.loads((folder / SYSTEM_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{folder / SYSTEM_FILE}: expected JSON, found {error}; evaluate the run again") from error
    if not isinstance(about, dict):
        raise InputError(f"{folder / SYSTEM_FILE}: expected an object, found {about!r:.40}; evaluate the run again")
    system = check_settings(System, about, str(folder / SYSTEM_FILE))
    labels, values = _read_cases(folder / CASES_FILE)
    return Run(folder, name or system.name, system, labels, values)


def _read_cases(path: Path) -> tuple[dict[int, str], dict[tuple[str, int], Values]]:
    labels: dict[int, str] = {}
    values: dict[tuple[str, int], Values] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                label = int(row["label"])
                labels[label] = row["name"]
                found = [float(row[metric.key] or "nan") for metric in METRICS]
                values[row["case"], label] = np.array(found)
            except (KeyError, ValueError, TypeError) as error:
                raise InputError(
                    f"{path}: line {number}: expected case, label, name and {', '.join(m.key for m in METRICS)}, found "
                    f"{error}; evaluate the run again"
                ) from error
    if not values:
        raise InputError(f"{path}: expected a line for each case and label, found none; evaluate the run again")
    return labels, values


def pool(runs: Sequence[Run], reference: str) -> list[Setting]:
    """The settings of all runs, in their order; systems in theirs, the reference first.

    Raises InputError where there are fewer than two systems, or those of a setting were not scored alike: other rules,
    labels or cases, or settings that differ in more than a seed.
    """
    folders = [run.folder.resolve() for run in runs]
    for place, folder in enumerate(folders):
        if folder in folders[:place]:
            raise InputError(f"{runs[place].folder}: expected every run once, found it twice; take one away")
    names = list(dict.fromkeys(run.name for run in runs))
    if len(names) < 2:
        raise InputError(
            f"expected scores of at least two systems, found {names[0] if names else 'none'} alone; give another run, "
            "or NAME=RUN where two systems have one name"
        )
    names.sort(key=lambda name: name != reference)
    settings = []
    for key in dict.fromkeys(run.key for run in runs):
        inside = [run for run in runs if run.key == key]
        by_name = {name: [run for run in inside if run.name == name] for name in names}
        settings.append(_setting(key, {name: own for name, own in by_name.items() if own}))
    return settings


def _setting(key: tuple[str, str], runs: Mapping[str, Sequence[Run]]) -> Setting:
    every = [run for own in runs.values() for run in own]
    first = every[0]
    for run in every[1:]:
        for what, one, other in (
            ("the rules", first.system.rules, run.system.rules),
            ("the labels", _named(first.labels), _named(run.labels)),
        ):
            if one != other:
                raise InputError(f"{run.folder}: expected {what} of {first.folder} ({one}), found {other}")
    for own in runs.values():
        _check_alike(own)
    pooled = {name: _pooled(own) for name, own in runs.items()}
    cases = list(dict.fromkeys(case for case, _ in next(iter(pooled.values()))))
    for name, values in pooled.items():
        _check_cases(name, {case for case, _ in values}, next(iter(pooled)), set(cases), key[0])
    array = np.array(
        [[[values[case, label] for case in cases] for label in first.labels] for values in pooled.values()]
    )
    array = np.moveaxis(array, -1, 0)
    labels = dict(first.labels)
    if len(labels) > 1:
        labels = {MEAN: "mean of labels", **labels}
        array = np.concatenate([_means(array, axis=2)[:, :, None], array], axis=2)
    return Setting(*key, tuple(runs), labels, tuple(cases), array, {name: tuple(own) for name, own in runs.items()})


def _named(labels: Mapping[int, str]) -> str:
    return ", ".join(f"{value} {name}" for value, name in sorted(labels.items()))


def _check_alike(runs: Sequence[Run]) -> None:
    """Runs are pooled only where their settings differ in nothing that makes another system."""
    first = runs[0]
    for run in runs[1:]:
        for key, one, other in _differences(_kept(first.system), _kept(run.system)):
            raise InputError(
                f"{run.folder}: expected a seed or fold of {first.folder} ({run.name}), found {key} {other!r} instead "
                f"of {one!r}; name one of them apart: NAME={run.folder}"
            )


def _kept(system: System) -> dict[str, Any]:
    """What makes a system: its settings without those that seeds may differ in, and how it was run."""
    kept = {key: value for key, value in (system.settings or {}).items() if key not in OWN}
    kept["--mirror"] = system.mirror
    for part, own in (("data", OWN_DATA), ("transfer", ("checkpoint",))):
        kept[part] = {key: value for key, value in kept.get(part, {}).items() if key not in own}
    return kept


def _differences(one: Any, other: Any, where: str = "") -> Iterable[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from _differences(one.get(key), other.get(key), f"{where}.{key}" if where else str(key))
    elif one != other:
        yield where, one, other


def _pooled(runs: Sequence[Run]) -> dict[tuple[str, int], Values]:
    """Means over the runs that scored each case, which must be equally many for all."""
    counts = {case: sum(case in run.cases for run in runs) for run in runs for case in run.cases}
    for case, count in counts.items():
        if count != max(counts.values()):
            raise InputError(
                f"{runs[0].name}: expected every case in {max(counts.values())} of its {len(runs)} runs, found case "
                f"{case} in {count}; evaluate them on the same cases"
            )
    keys = dict.fromkeys(key for run in runs for key in run.values)
    return {key: _means(np.array([run.values[key] for run in runs if key in run.values]), axis=0) for key in keys}


def _check_cases(name: str, cases: set[str], first: str, expected: set[str], data: str) -> None:
    if cases == expected:
        return
    missing, extra = sorted(expected - cases), sorted(cases - expected)
    found = [f"no {missing[0]}"] if missing else []
    found += [f"{extra[0]} as well"] if extra else []
    raise InputError(
        f"{data}: expected the same cases of every system, found {len(expected)} of {first} and {len(cases)} of {name} "
        f"({', '.join(found)}); evaluate both on the same cases"
    )


def _means(values: Values, axis: int) -> Values:
    """Means of what is a number along an axis; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(total.shape, math.nan), where=count > 0)


def statistics_of(values: Values) -> list[Statistic]:
    """Mean and standard deviation over cases of each system (systems, cases)."""
    return [Statistic.of(row.tolist()) for row in values]
