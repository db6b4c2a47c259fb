"""What is compared: folders that `segsync-train evaluate` wrote, and the settings that `grouping` makes of them."""

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segsync.errors import InputError
from segsync_train.comparison.statistics import Values
from segsync_train.config.settings import check_settings
from segsync_train.evaluation.summary import CASES_FILE
from segsync_train.evaluation.system import SYSTEM_FILE, System

log = logging.getLogger(__name__)

#: The label that stands for the mean over labels, as in `summary.csv`.
MEAN = 0


@dataclass(frozen=True)
class Metric:
    """A column of the tables: its name in `cases.csv`, its heading and unit, digits after the point."""

    key: str
    title: str
    digits: int
    larger_is_better: bool = False


#: The paper's columns. It names no unit of its volume difference; here it is a fraction of the reference's volume, and
#: the published figures need not be.
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
    """One folder of scores.

    Attributes:
        folder: The folder.
        name: Of the system.
        system: What was scored.
        labels: Values and names.
        values: The metrics (5,) by case and label.
        held: The labels that a reference of the folder holds.
    """

    folder: Path
    name: str
    system: System
    labels: Mapping[int, str]
    values: Mapping[tuple[str, int], Values]
    held: frozenset[int]

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

    Attributes:
        data: The data set that was scored.
        trained_on: The other.
        systems: Their names.
        labels: By value, with several the mean over them first (`MEAN`).
        cases: Their names.
        values: (metrics, systems, labels, cases), NaN where undefined.
        seeds: By system (metrics, seeds, labels, cases), of which values are the means.
        runs: Those of each system.
    """

    data: str
    trained_on: str
    systems: tuple[str, ...]
    labels: Mapping[int, str]
    cases: tuple[str, ...]
    values: Values
    seeds: Mapping[str, Values]
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

    def seeds_of(self, metric: Metric, system: str, label: int | None = None) -> Values:
        """Values (seeds, cases) of one system and label; None takes `overall`."""
        wanted = self.overall if label is None else label
        values: Values = self.seeds[system][METRICS.index(metric), :, list(self.labels).index(wanted)]
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
    labels, values, held = _read_cases(folder / CASES_FILE)
    return Run(folder, name or system.name, system, labels, values, held)


def read_runs(arguments: Sequence[str]) -> list[Run]:
    """The runs of `read_run`, without the labels that no reference of their setting holds, which a warning names.

    There Dice is 1 wherever nothing is found. Where no reference holds any label, all stay.
    """
    runs = [read_run(argument) for argument in arguments]
    kept = []
    for run in runs:
        held = frozenset().union(*(other.held for other in runs if other.key == run.key))
        nowhere = {label: name for label, name in run.labels.items() if label not in held} if held else {}
        for label, name in nowhere.items():
            log.warning("%s: label %d (%s): no reference holds it; it is left out", run.folder, label, name)
        labels = {label: name for label, name in run.labels.items() if label not in nowhere}
        values = {place: values for place, values in run.values.items() if place[1] not in nowhere}
        kept.append(replace(run, labels=labels, values=values))
    return kept


def _read_cases(path: Path) -> tuple[dict[int, str], dict[tuple[str, int], Values], frozenset[int]]:
    labels: dict[int, str] = {}
    held = set()
    values: dict[tuple[str, int], Values] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                label = int(row["label"])
                labels[label] = row["name"]
                found = [float(row[metric.key] or "nan") for metric in METRICS]
                values[row["case"], label] = np.array(found)
                if int(row["lesions"]):
                    held.add(label)
            except (KeyError, ValueError, TypeError) as error:
                raise InputError(
                    f"{path}: line {number}: expected case, label, name and {', '.join(m.key for m in METRICS)}, found "
                    f"{error}; evaluate the run again"
                ) from error
    if not values or len(values) != len(labels) * len({case for case, _ in values}):
        raise InputError(
            f"{path}: expected a line for each case and label, found {len(values)} lines of {len(labels)} labels; "
            "evaluate the run again"
        )
    return labels, values, frozenset(held)
