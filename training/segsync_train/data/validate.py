"""Is a folder the data set that it is taken for? Every file is read, and everything that is wrong is told at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segsync.errors import InputError
from segsync.geometry import Grid, Volume
from segsync.images import read
from segsync_train.config.labels import LabelSet
from segsync_train.data.adapters import DATASETS
from segsync_train.data.dataset import check_values, few, find_cases, on_grid, read_label
from segsync_train.data.formats import bids_channels, bids_everything, nnunet_description, nnunet_everything
from segsync_train.data.layout import CaseFiles, DataSet
from segsync_train.runs.progress import StepProgress


@dataclass(frozen=True)
class ValidationReport:
    """What was found: the number of cases, of those with labels, and a line for each problem."""

    cases: int
    labelled: int
    problems: tuple[str, ...]


def validate_folder(layout: str, folder: Path) -> ValidationReport:
    """Read a whole folder and list what is wrong with it.

    Found are cases without an image, without a label where one belongs, images that cannot be read or show nothing,
    label maps on another grid than their image, label values that the set has not, and label maps that are empty one
    and all.

    Args:
        layout: `nnunet`, `bids` or a data set's name.
        folder: To be read.

    Returns:
        How many cases there are, and a line for each fault.

    Raises:
        InputError: Nothing of this layout is there at all.
    """
    dataset = DATASETS.get(layout)
    channels, labels, optional = _expected(layout, folder)
    cases = _everything(layout, folder, channels)
    if not any(case.images for case in cases):
        raise InputError(f"{folder}: no {_example(dataset, layout)}; give the folder that holds them")
    structures = sorted({name for case in cases for name in case.masks})
    # A folder in a general format may be without labels altogether, to pretrain on.
    labelled = sum(bool(case.label_files) for case in cases)
    wanted = dataset is not None or labelled > 0
    problems: list[str] = []
    filled: list[bool] = []
    with StepProgress("checking", len(cases)) as progress:
        for case in cases:
            problems += _missing(case, channels, optional, structures)
            if wanted and not case.label_files and not case.held_back:
                problems.append(f"case {case.name}: no label map; add it or take the case out")
            grids, unreadable = _images(case, optional)
            problems += unreadable
            if case.label_files:
                try:
                    filled.append(_label(case, labels, channels[0], grids))
                except InputError as error:
                    problems.append(str(error))
            progress.advance(case.name)
    if filled and not any(filled):
        problems.append(
            f"{folder}: expected label maps that hold labels, found {len(filled)} empty ones; check the set"
        )
    return ValidationReport(len(cases), labelled, tuple(problems))


def _everything(layout: str, folder: Path, channels: Sequence[str]) -> list[CaseFiles]:
    """The cases of the folder, those that have labels and no image too."""
    if folder.is_dir() and layout == "nnunet":
        return nnunet_everything(folder, channels)
    if folder.is_dir() and layout == "bids":
        return bids_everything(folder, channels)
    if folder.is_dir() and layout in DATASETS:
        return DATASETS[layout].everything(folder, channels)
    return find_cases(layout, folder, channels)  # which says what does not exist


def _expected(layout: str, folder: Path) -> tuple[list[str], LabelSet, tuple[str, ...]]:
    """Channels, labels (none where any value will do), and the channels that cases may lack."""
    if layout in DATASETS:
        dataset = DATASETS[layout]
        return list(dataset.channels), LabelSet(labels=dict(dataset.labels)), dataset.optional
    if layout == "nnunet":
        return *nnunet_description(folder), ()
    if layout == "bids":
        return bids_channels(folder), LabelSet(), ()
    return [], LabelSet(), ()


def _example(dataset: DataSet | None, layout: str) -> str:
    if dataset is None:
        return f"cases in the layout {layout}"
    return f"images like {dataset.channels[dataset.reference][0]}"


def _missing(case: CaseFiles, channels: Sequence[str], optional: Sequence[str], structures: Sequence[str]) -> list[str]:
    """Images and masks that the case has not and others have."""
    images = [name for name in channels if name not in case.images and name not in optional]
    masks = [name for name in structures if case.masks and name not in case.masks]
    return [
        *(f"case {case.name}: no image of the channel {name!r}; add it" for name in images),
        *(f"case {case.name}: no mask of {name!r}, as other cases have; add it" for name in masks),
    ]


def _images(case: CaseFiles, optional: Sequence[str]) -> tuple[dict[str, Grid], list[str]]:
    """The grids of the case's images, and what reading them brings to light."""
    problems: list[str] = []
    grids: dict[str, Grid] = {}
    for name, path in case.images.items():
        try:
            volume = read(path)
        except InputError as error:
            problems.append(str(error))
            continue
        grids[name] = volume.grid
        # A channel that cases may lack is done without where it is constant, as at inference.
        only = None if name in optional else _only(volume)
        if only is not None:
            problems.append(
                f"case {case.name}: {path}: expected an image of the channel {name!r}, found {only} in every voxel; "
                "replace it or take the case out"
            )
    return grids, problems


def _only(volume: Volume) -> str | None:
    """What every voxel of an image holds, where that is one and the same; no number is 0, as NIfTI's reader has it."""
    numbers = volume.array[np.isfinite(volume.array)]
    if not numbers.any():
        return "0 or no number"
    return f"{float(numbers[0]):g}" if numbers.min() == numbers.max() else None


def _label(case: CaseFiles, labels: LabelSet, reference: str, grids: Mapping[str, Grid]) -> bool:
    """Whether the case's label map holds any label; raises InputError for what is wrong with it.

    grids: of the images that could be read.
    """
    path = case.label_files[0]
    if case.masks:
        labels = LabelSet(labels=dict(enumerate(sorted(case.masks), start=1)))
    label = read_label(case, labels.labels)
    if labels.labels:
        check_values(path, label, labels.known)
    else:
        _check_whole(case, path, label)
    if reference in grids:
        on_grid(path, label, case.images[reference], grids[reference])
    return bool(labels.labelled(label.array).any())


def _check_whole(case: CaseFiles, path: Path, label: Volume) -> None:
    """Raise InputError where a label map whose values nobody lists holds one that cannot be a label."""
    values = np.unique(label.array)
    wrong = [value for value in values.tolist() if not (value >= 0 and value == np.rint(value))]
    if wrong:
        raise InputError(
            f"case {case.name}: {path}: expected whole numbers from 0 as label values, found {few(wrong)}; correct the "
            "file, or give a label map and no probabilities"
        )
