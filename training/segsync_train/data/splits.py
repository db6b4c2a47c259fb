"""Which cases train and which validate: a subject lies on one side, and lesion volumes are alike on both.

The split of a run is written into its folder (`split.json`); whoever scores the run later reads it there.
"""

import csv
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

from segsync.atomic import whole_file, why_not
from segsync.errors import InputError, OutputError
from segsync_train.config.data import FolderData
from segsync_train.config.labels import LabelSet
from segsync_train.config.settings import Frozen
from segsync_train.data.dataset import PARTICIPANTS, participants, public, read_label
from segsync_train.data.layout import CaseFiles
from segsync_train.runs.folder import CONFIG_FILE

log = logging.getLogger(__name__)

SPLIT_FILE = "split.json"
#: The table of subjects in BIDS, and its column of their names.
SUBJECT_COLUMN = "participant_id"
#: What a table of BIDS holds where a value is not known.
UNKNOWN = ("", "n/a")
#: Lesion volumes are balanced in so many classes of equally many cases; cases without a lesion are one more.
CLASSES = 4


@dataclass(frozen=True)
class Split:
    """Which cases train and which validate.

    Attributes:
        training: Cases that train.
        validation: Cases that validate.
        groups: What each case is kept together by, by its name; empty where the settings name the cases.
        volumes_ml: Its labelled volume, likewise.
    """

    training: tuple[CaseFiles, ...]
    validation: tuple[CaseFiles, ...]
    groups: Mapping[str, str] = field(default_factory=dict)
    volumes_ml: Mapping[str, float] = field(default_factory=dict)


class SplitFile(Frozen):
    """What `split.json` holds: cases by their names."""

    format: Literal[1] = 1
    #: `data.group` of the settings.
    group: str
    training: tuple[str, ...]
    validation: tuple[str, ...]
    groups: dict[str, str] = Field(default_factory=dict)
    volumes_ml: dict[str, float] = Field(default_factory=dict)


def split_of_run(
    run: Path, cases: Sequence[CaseFiles], data: FolderData, labels: LabelSet, *, threads: int = 1
) -> Split:
    """The split that a run was trained with, or for a run that has not begun the one that its settings give.

    Raises:
        InputError: As `split_cases`; also where the run has begun and holds no split, or a case of it is gone.
    """
    path = run / SPLIT_FILE
    if not (run / CONFIG_FILE).is_file():
        return split_cases(cases, data, labels, threads=threads)
    if not path.is_file():
        raise InputError(
            f"{path}: expected the cases that the run trained on, found no such file (older versions wrote none, "
            "and divided the cases otherwise); name the cases with --data FOLDER, or train again"
        )
    kept = read_split(path)
    by_name = {case.name: case for case in public(cases)}
    gone = [name for name in (*kept.training, *kept.validation) if name not in by_name]
    if gone:
        raise InputError(f"{data.folder}: expected the case {gone[0]!r}, which {path} names, found no such case")
    training, validation = (tuple(by_name[name] for name in names) for names in (kept.training, kept.validation))
    return Split(training, validation, kept.groups, kept.volumes_ml)


def read_split(path: Path) -> SplitFile:
    """Read `split.json`; raises InputError if it is missing or malformed."""
    try:
        return SplitFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f"{path}: expected the split of a run, found another file; train again") from error


def write_split(split: Split, group: str, path: Path) -> None:
    """Write `split.json`, whole or not at all; raises OutputError."""
    training, validation = ([case.name for case in part] for part in (split.training, split.validation))
    kept = SplitFile(
        group=group,
        training=tuple(training),
        validation=tuple(validation),
        groups=dict(split.groups),
        volumes_ml=dict(split.volumes_ml),
    )
    try:
        with whole_file(path) as part:
            part.write_text(kept.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: expected to write it, found {why_not(path.parent, error)}") from error


def split_cases(
    cases: Sequence[CaseFiles], data: FolderData, labels: LabelSet | None = None, *, threads: int = 1
) -> Split:
    """Divide by names, by fold, or by a seeded fraction; `labelled` keeps the first part of the training cases.

    Cases of one subject, and of one `data.group`, stay together; the parts are alike in number and in the labelled
    volume of their cases. The order of the training cases is a function of `split_seed` and the names alone, so that
    5 % of the labels are part of 10 % of them. Cases whose labels are held back belong to neither part.

    Args:
        cases: All cases of the folder.
        data: The settings.
        labels: To read masks and volumes by; None takes what is no background.
        threads: Label maps are read by so many at once.

    Raises:
        InputError: A part would be empty, a name or the group is unknown, there are fewer groups than folds, or named
            cases of one group lie on both sides.
    """
    by_name = {case.name: case for case in public(cases)}
    groups = groups_of(list(by_name.values()), data)
    if data.training_cases:
        training, validation = _named(by_name, groups, data)
        volumes: dict[str, float] = {}
    else:
        volumes = label_volumes(list(by_name.values()), labels or LabelSet(), threads=threads)
        training, validation = _seeded(by_name, groups, volumes, data)
    training = training[: max(1, round(len(training) * data.labelled))]
    for part, name in ((training, "training"), (validation, "validation")):
        if not part:
            raise InputError(
                f"{data.folder}: no cases for {name} ({len(cases)} cases in all); give more cases or another split"
            )
    return Split(tuple(training), tuple(validation), groups, volumes)


def _named(
    by_name: Mapping[str, CaseFiles], groups: Mapping[str, str], data: FolderData
) -> tuple[list[CaseFiles], list[CaseFiles]]:
    for name in (*data.training_cases, *data.validation_cases):
        if name not in by_name:
            raise InputError(f"{data.folder}: expected the case {name!r} of the settings, found no such case")
    trained = {groups[name]: name for name in data.training_cases}
    for name in data.validation_cases:
        if groups[name] in trained:
            raise InputError(
                f"{data.folder}: expected cases of one {data.group} on one side, found {trained[groups[name]]!r} in "
                f"training_cases and {name!r} in validation_cases, both of {groups[name]!r}; move one of them"
            )
    return [by_name[name] for name in data.training_cases], [by_name[name] for name in data.validation_cases]


def _seeded(
    by_name: Mapping[str, CaseFiles], groups: Mapping[str, str], volumes: Mapping[str, float], data: FolderData
) -> tuple[list[CaseFiles], list[CaseFiles]]:
    """Training and validation cases; training in an order of its own, for names often tell scanners and hospitals."""
    shares = [data.validation, 1 - data.validation] if data.folds is None else [1 / data.folds] * data.folds
    count = len(set(groups.values()))
    if data.folds is not None and count < data.folds:
        what = "cases" if count == len(groups) else f"groups of cases (data.group: {data.group})"
        raise InputError(
            f"{data.folder}: expected at least as many {what} as there are folds ({data.folds}), found {count} in "
            f"{len(groups)} cases; set fewer data.folds or another data.group"
        )
    held = set(divide(groups, volumes, shares, data.split_seed)[data.fold])
    names = sorted(by_name)
    order = [names[i] for i in np.random.default_rng(data.split_seed).permutation(len(names))]
    training, validation = ([by_name[n] for n in order if (n in held) == inside] for inside in (False, True))
    return training, validation


def groups_of(cases: Sequence[CaseFiles], data: FolderData) -> dict[str, str]:
    """What each case is kept together by: its subject, or the value of `data.group` that its subject has.

    Args:
        cases: All of a folder; a subject with two values of the group joins both.
        data: The settings.

    Returns:
        The group of each case, by its name.

    Raises:
        InputError: The group is not known for a case.
    """
    if data.group == "subject":
        return {case.name: case.subject_name for case in cases}
    if data.group == "site" and all(case.site for case in cases):
        values = {case.name: str(case.site) for case in cases}
    else:
        values = _column(cases, data)
    return _joined(cases, values)


def _joined(cases: Sequence[CaseFiles], values: Mapping[str, str]) -> dict[str, str]:
    """The values, where those that share a subject become one."""
    of_subject: dict[str, str] = {}
    same: dict[str, str] = {}

    def root(value: str) -> str:
        while same.get(value, value) != value:
            value = same[value]
        return value

    for case in sorted(cases, key=lambda case: case.name):
        value = root(values[case.name])
        first = root(of_subject.setdefault(case.subject_name, value))
        same[value] = first
    return {case.name: root(values[case.name]) for case in cases}


def _column(cases: Sequence[CaseFiles], data: FolderData) -> dict[str, str]:
    """Each case's value in a column of `participants.tsv`; a row names the case or its subject, with `sub-` or not."""
    paths = participants(data.folder)
    if not paths:
        raise InputError(
            f"{data.folder}: data.group {data.group!r}: expected {PARTICIPANTS} with this column, found no such file; "
            "add it, or set data.group to subject"
        )
    table: dict[str, str] = {}
    for path in paths:
        table.update(_rows(path, data.group))
    found: dict[str, str] = {}
    for case in cases:
        names = (case.name, case.subject_name, case.subject_name.removeprefix("sub-"))
        value = next((table[name] for name in names if name in table), "")
        if value.lower() in UNKNOWN:
            raise InputError(
                f"{paths[0]}: no {data.group} of {case.subject_name}; add it, or set data.group to subject"
            )
        found[case.name] = value
    return found


def _rows(path: Path, column: str) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            names = list(reader.fieldnames or [])
            for wanted in (SUBJECT_COLUMN, column):
                if wanted not in names:
                    raise InputError(
                        f"{path}: expected the column {wanted!r}, found {', '.join(names) or 'an empty file'}; correct "
                        "data.group or the table"
                    )
            return {row[SUBJECT_COLUMN]: (row[column] or "").strip() for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected a table with tabs between its columns, found {error}") from error


def label_volumes(cases: Sequence[CaseFiles], labels: LabelSet, *, threads: int = 1) -> dict[str, float]:
    """The labelled volume of each case in ml."""

    def volume(case: CaseFiles) -> float:
        if not case.label_files:
            return 0.0
        try:
            label = read_label(case, labels.labels)
        except InputError:
            return 0.0  # the case's preparation says what is wrong with the file
        return float(np.count_nonzero(labels.labelled(label.array)) * label.grid.voxel_ml)

    with ThreadPoolExecutor(max_workers=max(1, threads)) as executor:
        return dict(zip((case.name for case in cases), executor.map(volume, cases), strict=True))


def divide(
    groups: Mapping[str, str], volumes: Mapping[str, float], shares: Sequence[float], seed: int
) -> list[list[str]]:
    """Divide cases into parts of these shares that are alike in number and in volumes; groups stay whole.

    The largest group first, and among equals the largest volume: each goes where number and classes of volume come
    nearest to the part's share. scikit-learn's StratifiedGroupKFold does the like for equal parts alone.

    Args:
        groups: The group of each case.
        volumes: The volume of each case in ml; cases that are not named have none.
        shares: Fraction of the cases for each part, 1 together.
        seed: Draws among equals.

    Returns:
        The names of each part's cases, sorted.
    """
    rng = np.random.default_rng(seed)
    kinds = _classes({name: volumes.get(name, 0.0) for name in groups})
    members: dict[str, list[str]] = {}
    for name in sorted(groups):
        members.setdefault(groups[name], []).append(name)
    drawn = [sorted(members)[i] for i in rng.permutation(len(members))]

    def rank(group: str) -> tuple[int, float]:
        names = members[group]
        return len(names), sum(volumes.get(name, 0.0) for name in names)

    whole = _counts(kinds.values())
    wanted = np.outer(shares, whole)
    have = np.zeros_like(wanted)
    parts: list[list[str]] = [[] for _ in shares]
    for group in sorted(drawn, key=rank, reverse=True):
        own = _counts(kinds[name] for name in members[group])
        costs = [_cost(have[part] + own, wanted[part], whole) - _cost(have[part], wanted[part], whole)
                 for part in range(len(shares))]  # fmt: skip
        best = min(costs)
        part = int(rng.choice([index for index, cost in enumerate(costs) if cost < best + 1e-12]))
        have[part] += own
        parts[part] += members[group]
    return [sorted(part) for part in parts]


def _cost(have: np.ndarray, wanted: np.ndarray, whole: np.ndarray) -> float:
    """How far a part is from its share: of the cases, which counts most, and of each class of volume.

    Divided by the share, so that parts of different size fill at the same pace.
    """
    classes = ((have - wanted) ** 2 / np.maximum(whole, 1)).sum()
    return float(((have.sum() - wanted.sum()) ** 2 + classes) / wanted.sum())


def _counts(kinds: Iterable[int]) -> np.ndarray:
    found = Counter(kinds)
    return np.array([found[kind] for kind in range(CLASSES + 1)], dtype=np.float64)


def _classes(volumes: Mapping[str, float]) -> dict[str, int]:
    """The class of each case's volume: 0 without any, else 1 to CLASSES by the quantiles of those that have some."""
    some = [volume for volume in volumes.values() if volume > 0]
    bounds = np.quantile(some or [1.0], np.arange(1, CLASSES) / CLASSES)
    return {
        name: 0 if volume <= 0 else 1 + int(np.searchsorted(bounds, volume, side="left"))
        for name, volume in volumes.items()
    }
