"""Out-of-fold predictions: what the networks of a cross-validation make of the cases that they never saw.

`segsync-train crossval` writes them, and reads them to pool; `tune` chooses one operating point on them.

    CROSSVAL/crossval.yaml                                    settings of a run; data.folds: how many
    CROSSVAL/fold-0/                                          a run of `finetune`
    CROSSVAL/fold-0/out-of-fold/cases.json                    its validation cases (`FoldPredictions`); written last
    CROSSVAL/fold-0/out-of-fold/probabilities/NAME.npz        `probabilities`: float16 (L, Z, Y, X), 0 to 1, of the
                                                              foreground labels on the reference image's grid
"""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

from segsync.arrays import Array
from segsync.atomic import whole_file, why_not
from segsync.errors import InputError, OutputError
from segsync.geometry import Volume
from segsync.images import read
from segsync_train.config.labels import LabelSet
from segsync_train.config.settings import Frozen
from segsync_train.data.dataset import check_values, on_grid, read_label
from segsync_train.data.layout import CaseFiles

SETTINGS_FILE = "crossval.yaml"
FOLDER, CASES_FILE, PROBABILITIES = "out-of-fold", "cases.json", "probabilities"
FOLD = re.compile(r"fold-(\d+)")


class FoldPredictions(Frozen):
    """What `cases.json` of a fold holds."""

    format: Literal[1] = 1
    fold: int
    #: Number of folds of the cross-validation.
    folds: int
    task: str
    #: The channel whose grid the probabilities lie on.
    reference: str
    labels: dict[int, str]
    regions: dict[int, tuple[int, ...]] = Field(default_factory=dict)
    ignore: int | None = None
    #: Steps that the network was trained for.
    step: int
    #: By name: the case's files, by absolute paths, and what it was kept together by in the split.
    cases: dict[str, CaseFiles]
    groups: dict[str, str]

    @property
    def label_set(self) -> LabelSet:
        """What the values of the label maps mean."""
        return LabelSet(labels=self.labels, regions=self.regions, ignore=self.ignore)


@dataclass(frozen=True)
class OutOfFoldCase:
    """One case and the file of what the network of its fold made of it."""

    name: str
    fold: int
    group: str
    files: CaseFiles
    stored: Path
    labels: LabelSet
    #: The channel whose grid the probabilities lie on.
    reference: str

    def read(self) -> tuple[Volume, Array]:
        """Read labels and probabilities.

        Returns:
            The label map on the reference image's grid, and the probabilities (L, Z, Y, X) float32 on the same.

        Raises:
            InputError: A file is missing or damaged, or they are of different cases.
        """
        label = read_label(self.files, self.labels.labels)
        image, path = self.files.images[self.reference], self.files.label_files[0]
        label = on_grid(path, label, image, read(image).grid)
        check_values(path, label, self.labels.known)
        try:
            with np.load(self.stored) as stored:
                probabilities = np.asarray(stored["probabilities"], dtype=np.float32)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{self.stored}: expected probabilities, found {error}; predict the fold again") from error
        expected = (len(self.labels.labels), *label.array.shape)
        if probabilities.shape != expected:
            raise InputError(
                f"{self.stored}: expected probabilities of the shape {expected}, as {self.files.label_files[0]} has, "
                f"found {probabilities.shape}; the label map is of another case or was changed: predict the fold again"
            )
        return label, probabilities


@dataclass(frozen=True)
class OutOfFold:
    """All cases of a cross-validation, each with the prediction of the one network that did not train on it."""

    task: str
    reference: str
    labels: LabelSet
    folds: int
    cases: tuple[OutOfFoldCase, ...]


def fold_folder(crossval: Path, fold: int) -> Path:
    """The run of a fold."""
    return crossval / f"fold-{fold}"


def fold_numbers(crossval: Path) -> list[int]:
    """The folds whose folders are there."""
    return sorted(int(found[1]) for path in crossval.glob("fold-*") if (found := FOLD.fullmatch(path.name)))


def read_fold(crossval: Path, fold: int) -> FoldPredictions | None:
    """What a fold predicted; None where it has not yet. Raises InputError where the file is another one."""
    path = fold_folder(crossval, fold) / FOLDER / CASES_FILE
    if not path.is_file():
        return None
    try:
        return FoldPredictions.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f"{path}: expected the cases of a fold, found another file; predict the fold again") from error


def is_crossval(folder: Path) -> bool:
    """Whether a folder holds a cross-validation."""
    return (folder / SETTINGS_FILE).is_file()


def read_out_of_fold(crossval: Path) -> OutOfFold:
    """Every fold's predictions.

    Args:
        crossval: The folder of a cross-validation.

    Returns:
        The cases, by name.

    Raises:
        InputError: A fold is missing, the folds are of different settings, or a case is in two of them.
    """
    folds = [done for number in fold_numbers(crossval) if (done := read_fold(crossval, number)) is not None]
    if not folds:
        raise InputError(
            f"{crossval}: no predictions of the folds of a cross-validation; run segsync-train crossval first"
        )
    first = folds[0]
    missing = sorted(set(range(first.folds)) - {fold.fold for fold in folds})
    if missing:
        listed = ", ".join(map(str, missing))
        raise InputError(
            f"{crossval}: expected predictions of {first.folds} folds, found {len(folds)}; run segsync-train crossval "
            f"--fold for {listed}"
        )
    cases: dict[str, OutOfFoldCase] = {}
    for fold in folds:
        alike = ("folds", "task", "reference", "labels", "regions", "ignore")
        if any(getattr(fold, name) != getattr(first, name) for name in alike):
            raise InputError(f"{crossval}: expected folds of one cross-validation, found fold {fold.fold} of another")
        for name, files in fold.cases.items():
            if name in cases:
                raise InputError(
                    f"{crossval}: expected each case in one fold, found {name} in {cases[name].fold} and {fold.fold}; "
                    "the folds are of different splits: train them again"
                )
            stored = fold_folder(crossval, fold.fold) / FOLDER / PROBABILITIES / f"{name}.npz"
            cases[name] = OutOfFoldCase(
                name, fold.fold, fold.groups[name], files, stored, fold.label_set, fold.reference
            )
    ordered = tuple(cases[name] for name in sorted(cases))
    return OutOfFold(first.task, first.reference, first.label_set, first.folds, ordered)


def store_probabilities(crossval: Path, fold: int, name: str, probabilities: Array) -> None:
    """Write one case's probabilities (L, Z, Y, X) on its reference image's grid; raises OutputError."""
    path = fold_folder(crossval, fold) / FOLDER / PROBABILITIES / f"{name}.npz"
    try:
        with whole_file(path, suffix=".npz") as part:
            np.savez_compressed(part, probabilities=np.clip(probabilities, 0, 1).astype(np.float16))
    except OSError as error:
        raise OutputError(f"{path}: expected to write it, found {why_not(path.parent, error)}") from error


def store_fold(crossval: Path, done: FoldPredictions) -> None:
    """Write a fold's `cases.json`, after which it counts as predicted; raises OutputError."""
    path = fold_folder(crossval, done.fold) / FOLDER / CASES_FILE
    try:
        with whole_file(path) as part:
            part.write_text(done.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: expected to write it, found {why_not(path.parent, error)}") from error
