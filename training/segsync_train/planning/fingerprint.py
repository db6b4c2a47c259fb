"""What a folder of labelled cases is like: sizes, spacings, intensities within the labels, label volumes, groups."""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt

from segsync.arrays import Array, Mask, Triple
from segsync.bundle import ZScore
from segsync.errors import InputError
from segsync.geometry import Grid, Volume, canonical_grid, resample
from segsync.images import read
from segsync.postprocess import components_of
from segsync.preprocess import tissue
from segsync.units import CT, QUANTITIES
from segsync_train.config.labels import LabelSet
from segsync_train.config.settings import Frozen
from segsync_train.config.training import SizeZYX
from segsync_train.data.dataset import check_values, few, on_grid, read_label
from segsync_train.data.layout import CaseFiles

#: Voxels that are drawn of a case's labels and of its tissue, for the intensities of all cases together.
DRAWN = 4000
#: Below this value an image in HU shows air.
AIR_HU = -300.0


class Intensities(Frozen):
    """Of the voxels of all cases together, every case with as many at most."""

    voxels: NonNegativeInt
    mean: float
    sd: NonNegativeFloat
    #: The 0.5th, 50th and 99.5th percentile.
    low: float
    median: float
    high: float


class ChannelFingerprint(Frozen):
    """One channel over all cases."""

    cases: NonNegativeInt
    #: Within the labels, and in the patient altogether; None if there is no such voxel.
    labelled: Intensities | None
    tissue: Intensities | None


class CaseFingerprint(Frozen):
    """One case: its reference image's grid in canonical order (inferior-superior, anterior-posterior, right-left)."""

    group: str
    size_zyx: SizeZYX
    spacing_zyx: Triple
    #: Of each label: volume, and number of 26-connected components.
    volumes_ml: dict[int, NonNegativeFloat]
    components: dict[int, NonNegativeInt]
    #: Of all labels together.
    volume_ml: NonNegativeFloat


class Fingerprint(Frozen):
    """A whole folder."""

    format: Literal[1] = 1
    folder: str
    layout: str
    #: What keeps cases together in splits (`data.group`).
    group: str
    #: The first is the one that the labels lie on.
    channels: dict[str, ChannelFingerprint]
    labels: dict[int, str]
    regions: dict[int, tuple[int, ...]] = Field(default_factory=dict)
    ignore: int | None = None
    cases: dict[str, CaseFingerprint]

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len({case.group for case in self.cases.values()})

    def spacings(self) -> np.ndarray:
        """Spacings (cases, 3) in Z, Y, X, mm."""
        return np.array([case.spacing_zyx for case in self.cases.values()], dtype=np.float64)

    def sizes(self) -> np.ndarray:
        """Sizes (cases, 3) in Z, Y, X, voxels."""
        return np.array([case.size_zyx for case in self.cases.values()], dtype=np.float64)


Drawn = Mapping[str, tuple[Array, Array]]


def fingerprint(
    cases: Sequence[CaseFiles],
    channels: Sequence[str],
    labels: LabelSet,
    groups: Mapping[str, str],
    *,
    folder: Path,
    layout: str,
    group: str,
    threads: int = 1,
    progress: Callable[[str], None] = lambda name: None,
) -> Fingerprint:
    """Read every image and label map once.

    Args:
        cases: Cases with their labels.
        channels: Names, the one that the labels lie on first.
        labels: What the values mean; empty: whatever whole numbers the label maps hold.
        groups: The group of each case.
        folder: For the record.
        layout: Likewise.
        group: Likewise.
        threads: Cases are read by so many at once.
        progress: Called with each case's name.

    Returns:
        The fingerprint.

    Raises:
        InputError: A file cannot be read, grids differ, a value is not known, or all label maps are empty.
    """

    def one(files: CaseFiles) -> tuple[CaseFingerprint, Drawn]:
        found = _case(files, channels, labels, groups[files.name])
        progress(files.name)
        return found

    with ThreadPoolExecutor(max_workers=max(1, threads)) as executor:
        measured = dict(zip((files.name for files in cases), executor.map(one, cases), strict=True))
    known = labels.labels or {
        value: f"label {value}" for value in sorted({v for case, _ in measured.values() for v in case.volumes_ml})
    }
    if not any(case.volume_ml for case, _ in measured.values()):
        raise InputError(
            f"{folder}: expected label maps that hold labels, found {len(measured)} empty ones; nothing can be learned "
            "from them: check the set and data.layout"
        )
    return Fingerprint(
        folder=str(folder),
        layout=layout,
        group=group,
        channels={
            name: _channel([drawn[name] for _, drawn in measured.values() if name in drawn]) for name in channels
        },
        labels=known,
        regions=labels.regions,
        ignore=labels.ignore,
        cases={name: case for name, (case, _) in measured.items()},
    )


def _case(files: CaseFiles, channels: Sequence[str], labels: LabelSet, group: str) -> tuple[CaseFingerprint, Drawn]:
    reference = files.images[channels[0]]
    image = read(reference)
    label = on_grid(files.label_files[0], read_label(files, labels.labels), reference, image.grid)
    if labels.labels:
        check_values(files.label_files[0], label, labels.known)
    values = _whole(files.label_files[0], label)
    volumes: dict[int, float] = {}
    components: dict[int, int] = {}
    for value in labels.labels or values:
        mask = labels.within(label.array, value)
        volumes[value] = float(mask.sum() * label.grid.voxel_ml)
        components[value] = components_of(mask)[1]
    labelled = labels.labelled(label.array)
    grid = canonical_grid(label.grid)
    drawn = {}
    for name in channels:
        if name not in files.images:
            continue
        drawn[name] = _drawn(name, image if name == channels[0] else read(files.images[name]), labelled, label.grid)
    return CaseFingerprint(
        group=group,
        size_zyx=grid.size_zyx,
        spacing_zyx=grid.spacing_zyx,
        volumes_ml=volumes,
        components=components,
        volume_ml=float(labelled.sum() * label.grid.voxel_ml),
    ), drawn


def _whole(path: Path, label: Volume) -> list[int]:
    found = np.unique(label.array).tolist()
    wrong = [value for value in found if not 0 <= value <= 255 or value != round(value)]
    if wrong:
        raise InputError(
            f"{path}: expected whole numbers of 0 to 255 as label values, found {few(wrong)}; correct the file"
        )
    return [int(value) for value in found if value > 0]


def _drawn(name: str, image: Volume, inside: Mask, grid: Grid) -> tuple[Array, Array]:
    """Values of an image within the labels (a mask on `grid`) and in the patient, in the channel's unit."""
    array = np.nan_to_num(image.array.astype(np.float32), posinf=0.0, neginf=0.0)
    if name in QUANTITIES:
        array *= np.float32(QUANTITIES[name].scale(array) or 1.0)
    if not image.grid.same_as(grid):
        inside = resample(Volume(inside.astype(np.float32), grid), image.grid) >= 0.5
    patient = array > AIR_HU if name in (*CT, "ct") else tissue(array, ZScore())
    rng = np.random.default_rng(0)
    return _some(array[inside], rng), _some(array[patient], rng)


def _some(values: Array, rng: np.random.Generator) -> Array:
    return values if len(values) <= DRAWN else values[rng.choice(len(values), DRAWN, replace=False)]


def _channel(drawn: Sequence[tuple[Array, Array]]) -> ChannelFingerprint:
    labelled, everything = ([part[index] for part in drawn] for index in (0, 1))
    return ChannelFingerprint(cases=len(drawn), labelled=_intensities(labelled), tissue=_intensities(everything))


def _intensities(parts: Sequence[Array]) -> Intensities | None:
    values = np.concatenate([*parts, np.zeros(0, np.float32)]).astype(np.float64)
    if values.size == 0 or not math.isfinite(float(values.std())):
        return None
    low, median, high = np.percentile(values, (0.5, 50, 99.5)).tolist()
    return Intensities(
        voxels=values.size, mean=float(values.mean()), sd=float(values.std()), low=low, median=median, high=high
    )
