"""Preprocessed cases: what a patch is cut from, and how they lie on the disk for any number of readers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segsync.arrays import Array, LabelMap, Mask
from segsync.atomic import whole_folder, why_not
from segsync.errors import OutputError
from segsync.geometry import Grid

#: Voxel indices (N, 3) in (Z, Y, X).
Points = npt.NDArray[np.int32]

#: Voxels remembered per case to centre patches on.
POINTS = 2048
#: Axes of a grid that are those of the patient.
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
#: In a prepared case's label: a voxel that nobody labelled.
IGNORED = 255
#: 26 neighbours, as the runtime counts components.
NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class LabelledCase:
    """One case on the model's grid.

    Attributes:
        name: Of the case.
        image: (C, Z, Y, X) float32, normalised.
        label: (Z, Y, X), 0 background, IGNORED, else the place of the value among `LabelSet.values`, from 1.
        tissue: (Z, Y, X), where the reference channel shows the patient.
        foreground: Voxels drawn among the labelled ones: every value, and every lesion of it, alike.
        inside: Voxels drawn among the tissue.
        lowest: Smallest value of each channel: what lies outside the field of view is filled with it.
        spacing_zyx: Millimetres.
    """

    name: str
    image: Array
    label: LabelMap
    tissue: Mask
    foreground: Points
    inside: Points
    lowest: tuple[float, ...]
    spacing_zyx: tuple[float, float, float]

    @property
    def labelled(self) -> Mask:
        """Where there is any label (Z, Y, X)."""
        label = np.asarray(self.label)
        some: Mask = (label > 0) & (label != IGNORED)
        return some

    @property
    def ignored(self) -> Mask:
        """What nobody labelled (Z, Y, X)."""
        left_out: Mask = np.asarray(self.label) == IGNORED
        return left_out

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return self.grid.voxel_ml

    @property
    def grid(self) -> Grid:
        """The case's voxels in space, the origin and the axes being the grid's own."""
        z, y, x = self.label.shape
        return Grid((z, y, x), self.spacing_zyx, (0.0, 0.0, 0.0), IDENTITY)


def build_case(
    name: str, image: Array, label: LabelMap, tissue: Mask, spacing_zyx: tuple[float, float, float], seed: int = 0
) -> LabelledCase:
    """Put a case together and draw the voxels that patches will be centred on."""
    rng = np.random.default_rng(seed)
    lowest = tuple(float(channel.min()) for channel in image)
    foreground, inside = _foreground(label, rng), _draw(tissue & (label != IGNORED), POINTS, rng)
    return LabelledCase(name, image, label, tissue, foreground, inside, lowest, spacing_zyx)


def _foreground(label: LabelMap, rng: np.random.Generator) -> Points:
    """POINTS voxels: a label drawn among those present, then one of its components, then one of its voxels."""
    values = np.unique(label[(label > 0) & (label != IGNORED)])
    parts = []
    for value in values:
        components, count = ndimage.label(label == value, NEIGHBOURS)
        flat = components.ravel()
        voxels = np.flatnonzero(flat)
        voxels = voxels[np.argsort(flat[voxels], kind="stable")]
        sizes = np.bincount(flat[voxels], minlength=count + 1)[1:]
        firsts = np.cumsum(sizes) - sizes
        chosen = rng.integers(count, size=POINTS // len(values))
        places = firsts[chosen] + np.floor(rng.random(len(chosen)) * sizes[chosen]).astype(np.int64)
        parts.append(np.stack(np.unravel_index(voxels[places], label.shape), axis=1))
    points: Points = np.concatenate(parts or [np.zeros((0, 3))]).astype(np.int32)
    return points


def _draw(mask: Mask, count: int, rng: np.random.Generator) -> Points:
    voxels = np.flatnonzero(mask)
    chosen = rng.choice(voxels, count) if voxels.size else voxels
    points: Points = np.stack(np.unravel_index(chosen, mask.shape), axis=1).astype(np.int32)
    return points


def store_case(case: LabelledCase, folder: Path) -> None:
    """Write a case as a folder of .npy files, whole or not at all; another process that was faster wins.

    Processes that share a cache may have one number, in two containers or on two machines.

    Args:
        case: Prepared.
        folder: Where it is kept.

    Raises:
        OutputError: The disk is full.
    """
    try:
        with whole_folder(folder, replace=False) as part:
            for name in ("image", "label", "tissue", "foreground", "inside"):
                np.save(part / f"{name}.npy", getattr(case, name))
            about = {"name": case.name, "lowest": case.lowest, "spacing_zyx": case.spacing_zyx}
            (part / "case.json").write_text(json.dumps(about))
    except OSError as error:
        raise OutputError(f"{folder}: expected to keep the case, found {why_not(folder.parent, error)}") from error


def open_case(folder: Path) -> LabelledCase:
    """Read a stored case; its arrays stay on the disk and are read as they are used."""
    image, label, tissue, foreground, inside = (
        np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", "label", "tissue", "foreground", "inside")
    )
    about = json.loads((folder / "case.json").read_text())
    z, y, x = about["spacing_zyx"]
    return LabelledCase(about["name"], image, label, tissue, foreground, inside, tuple(about["lowest"]), (z, y, x))


class StoredCases(Sequence[LabelledCase]):
    """Stored cases, each opened anew when it is asked for.

    Open arrays hold a file each, of which a process may have a thousand or so, and one that is sent to another process
    travels with all its voxels: a set of cases holds and sends nothing but their folders.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)

    def __len__(self) -> int:
        return len(self.folders)

    @overload
    def __getitem__(self, place: int) -> LabelledCase: ...

    @overload
    def __getitem__(self, place: slice) -> "StoredCases": ...

    def __getitem__(self, place: int | slice) -> "LabelledCase | StoredCases":
        if isinstance(place, slice):
            return StoredCases(self.folders[place])
        return open_case(self.folders[place])
