"""Scores that outlive the machine on which they were made: a study adds to them wherever it is run.

    runs.csv     a row a finished run: its system, labels, seed and settings, its commit, what it cost
    scores.csv   a row a case and label of each

Figures alone: no image, no mask and no weights. A run counts once runs.csv names it, which is written last.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from segsync.atomic import write_texts
from segsync_train.comparison.scores import METRICS
from segsync_train.evaluation.summary import CASES_FILE, Row
from segsync_train.evaluation.system import SYSTEM_FILE, System

RUNS, SCORES = "runs.csv", "scores.csv"
#: Columns of a case and label; those that `compare` reads of an evaluation.
SCORED = ("case", "label", "name", *(metric.key for metric in METRICS), "lesions")
#: Keys of a recipe that decide how and where it is run, not what comes out.
HOW = ("name", "data", "workers", "checkpoint_every", "log_every")


@dataclass(frozen=True)
class Key:
    """Which run. labelled: cases whose labels trained; settings: `fingerprint` of all that was asked for."""

    system: str
    labelled: int
    seed: int
    settings: str


@dataclass(frozen=True)
class Made:
    """A finished run. seconds: of one processor, training and scoring without the pretraining."""

    key: Key
    commit: str
    hardware: str
    parameters: int
    steps: int
    pretraining_steps: int
    seconds: float


KEYS = tuple(field.name for field in fields(Key))
COLUMNS = (*KEYS, *(field.name for field in fields(Made) if field.name != "key"))


def fingerprint(recipes: Mapping[Path, Sequence[str]], *cases: Sequence[str]) -> str:
    """A name for settings as they were given: equal where nothing that decides on the scores was asked for otherwise.

    Args:
        recipes: Files of settings, and what was laid over each, without paths and seed.
        cases: Names of the cases, in their order.

    Returns:
        Twelve hexadecimal digits.
    """
    given: list[Any] = [list(names) for names in cases]
    for path, overrides in recipes.items():
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        given.append([{key: value for key, value in recipe.items() if key not in HOW}, list(overrides)])
    return hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest()[:12]


class Ledger:
    """The runs of a folder, in the order in which they were finished."""

    def __init__(self, folder: Path) -> None:
        """Read what the folder holds; one that is not there holds nothing."""
        self.folder = folder
        self.runs: dict[Key, Made] = {}
        self._scores: dict[Key, list[dict[str, str]]] = {}
        self._take_in()

    def _take_in(self) -> None:
        scores: dict[Key, list[dict[str, str]]] = {}
        for row in _read(self.folder / RUNS):
            key, rest = _key(row), [row[name] for name in COLUMNS[len(KEYS) :]]
            self.runs[key] = Made(key, rest[0], rest[1], int(rest[2]), int(rest[3]), int(rest[4]), float(rest[5]))
        for row in _read(self.folder / SCORES):
            if _key(row) in self.runs:
                scores.setdefault(_key(row), []).append({name: row[name] for name in SCORED})
        self._scores |= scores

    def add(self, made: Made, rows: Iterable[Row]) -> None:
        """Keep a run's scores, beside what others have added since; raises OutputError where they cannot be written."""
        self._take_in()
        self._scores[made.key] = [
            {"case": row.case, "label": str(row.label), "name": row.name}
            | {name: f"{getattr(row.scores, name):.6g}" for name in SCORED[3:]}
            for row in rows
        ]
        self.runs[made.key] = made
        scores = [(*astuple(key), *row.values()) for key in self.runs for row in self._scores[key]]
        runs = [(*astuple(one.key), *astuple(one)[1:]) for one in self.runs.values()]
        write_texts({SCORES: _csv((*KEYS, *SCORED), scores)}, self.folder)
        write_texts({RUNS: _csv(COLUMNS, runs)}, self.folder)

    def dice(self, key: Key) -> dict[tuple[str, str], float]:
        """Dice of a run by case and label."""
        return {(row["case"], row["label"]): float(row["dice"]) for row in self._scores[key]}

    def restore(self, key: Key, data: str, folder: Path) -> str:
        """Write a run's scores as `evaluate` would have; returns `SYSTEM=FOLDER`, which `compare` takes.

        data: name of the data set. Raises OutputError.
        """
        system = System(name=key.system, data=data, trained_on=data, rules="isles22", cases={}, masks={})
        table = _csv(SCORED, [tuple(row.values()) for row in self._scores[key]])
        write_texts({CASES_FILE: table, SYSTEM_FILE: system.model_dump_json()}, folder)
        return f"{key.system}={folder}"


def _key(row: Mapping[str, str]) -> Key:
    return Key(row["system"], int(row["labelled"]), int(row["seed"]), row["settings"])


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return file.getvalue()
