"""Is a folder the data set that it is taken for? Every file is read, and everything that is wrong is told at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segsync.errors import InputError
from segsync.geometry import Grid
from segsync.images import read
from segsync_train.data.adapters import DATASETS
from segsync_train.data.dataset import check_grid, check_values, find_cases, read_label
from segsync_train.data.formats import bids_channels, nnunet_description
from segsync_train.data.layout import CaseFiles, DataSet
from segsync_train.progress import StepProgress


@dataclass(frozen=True)
class Report:
    """What was found: the number of cases, of those with labels, and a line for each problem."""

    cases: int
    labelled: int
    problems: tuple[str, ...]


def check_folder(layout: str, folder: Path) -> Report:
    """Read a whole folder of a layout: `nnunet`, `bids` or a data set's name.

    Found are cases without an image, without a label where one belongs, images that cannot be read, label maps on
    another grid than their image, and label values that the set has not. Raises InputError where nothing of this
    layout is there at all.
    """
    dataset = DATASETS.get(layout)
    channels, labels, optional = _expected(layout, folder)
    if dataset is not None and folder.is_dir():
        cases = dataset.everything(folder, channels)
    else:
        cases = find_cases(layout, folder, channels)
    if not any(case.images for case in cases):
        raise InputError(f"{folder}: expected {_example(dataset, layout)}, found none; give the folder that holds them")
    structures = sorted({name for case in cases for name in case.masks})
    # A folder in a general format may be without labels altogether, to pretrain on.
    labelled = sum(bool(case.label_files) for case in cases)
    wanted = dataset is not None or labelled > 0
    problems: list[str] = []
    with StepProgress("checking", len(cases)) as progress:
        for case in cases:
            problems += _missing(case, channels, optional, structures)
            if wanted and not case.label_files and not case.held_back:
                problems.append(f"case {case.name}: expected a label map, found none; add it or take the case out")
            problems += _unreadable(case, channels[0], labels)
            progress.advance(case.name)
    return Report(len(cases), labelled, tuple(problems))


def _expected(layout: str, folder: Path) -> tuple[list[str], Mapping[int, str], tuple[str, ...]]:
    """Channels, labels (none where any value will do), and the channels that cases may lack."""
    if layout in DATASETS:
        dataset = DATASETS[layout]
        return list(dataset.channels), dataset.labels, dataset.optional
    if layout == "nnunet":
        return *nnunet_description(folder), ()
    if layout == "bids":
        return *bids_channels(folder), ()
    return [], {}, ()


def _example(dataset: DataSet | None, layout: str) -> str:
    if dataset is None:
        return f"cases in the layout {layout}"
    return f"images like {dataset.channels[dataset.reference][0]}"


def _missing(case: CaseFiles, channels: Sequence[str], optional: Sequence[str], structures: Sequence[str]) -> list[str]:
    """Images and masks that the case has not and others have."""
    images = [name for name in channels if name not in case.images and name not in optional]
    masks = [name for name in structures if case.masks and name not in case.masks]
    return [
        *(f"case {case.name}: expected an image of the channel {name!r}, found none; add it" for name in images),
        *(f"case {case.name}: expected a mask of {name!r}, as other cases have, found none; add it" for name in masks),
    ]


def _unreadable(case: CaseFiles, reference: str, labels: Mapping[int, str]) -> list[str]:
    """What reading the case's files brings to light."""
    problems: list[str] = []
    grids: dict[str, Grid] = {}
    for name, path in case.images.items():
        try:
            grids[name] = read(path).grid
        except InputError as error:
            problems.append(str(error))
    if not case.label_files:
        return problems
    named = dict(enumerate(sorted(case.masks), start=1)) or labels
    try:
        label = read_label(case, named)
        if named:
            check_values(case.label_files[0], label, named)
        if reference in grids:
            check_grid(case.label_files[0], label.grid, case.images[reference], grids[reference])
    except InputError as error:
        problems.append(str(error))
    return problems
