"""Slices of a DICOM series put together: sorted by their place in the patient, evenly spaced, whole."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segsync.errors import InputError
from segsync.readers.stored import Matrix, Stored

#: How far the steps between slices may differ and be one, as a share.
UNEVEN = 0.1
#: A step that changes within a stack makes no more slices than this of one.
MOST_BETWEEN = 8
#: Angle between the way from the first slice to the last and the slices' normal: from here on it is a tilted gantry.
TILT_DEGREES = 0.5
#: Orientations of one stack agree to this cosine, pixel spacings to this share.
ALIKE = 1e-3


@dataclass(frozen=True)
class Slice:
    """One plane of a series: where it lies, and what its stored values mean.

    Attributes:
        position: LPS mm of its first pixel's centre.
        axes: The directions of rows and columns, (2, 3).
        pixel: Millimetres between columns, then rows.
        number: Place in the pixels as they were read.
        slope: Of its rescale.
        intercept: Likewise.
        thickness: Millimetres, 0 where none is told.
        spacing: Likewise.
        b: In s/mm², where it is told.
        path: Of its file.
    """

    position: Matrix
    axes: Matrix
    pixel: Matrix
    number: int
    slope: float
    intercept: float
    thickness: float
    spacing: float
    b: float | None
    path: Path

    @property
    def normal(self) -> Matrix:
        """The direction across the plane."""
        return np.cross(self.axes[0], self.axes[1])


def stack(folder: Path, slices: Sequence[Slice], pixels: npt.NDArray[np.generic]) -> Stored:
    """Put planes together.

    Args:
        folder: They are from, for messages.
        slices: Where each lies, and what its values mean.
        pixels: (number, Y, X) as stored.

    Returns:
        The volume, or several of a diffusion series.

    Raises:
        InputError: Slices are of several kinds, lie twice, lack one among them, or are tilted.
    """
    first = slices[0]
    for one in slices:
        if np.abs(one.axes - first.axes).max() > ALIKE or np.abs(one.pixel / first.pixel - 1).max() > ALIKE:
            raise InputError(
                f"{folder}: expected slices of one orientation and pixel spacing, found others in {one.path.name}; "
                "give one volume a folder"
            )
    ordered, bvalues = _volumes(folder, sorted(slices, key=lambda one: float(one.position @ first.normal)))
    places = np.array([one.position for one in ordered[0]])
    steps = _steps(folder, ordered[0], places)
    array = np.stack([_values(pixels, volume) for volume in ordered])
    said: list[str] = []
    step = float(steps.min())
    if np.ptp(steps) > UNEVEN * np.median(steps):
        array = _evenly(array, np.concatenate([[0.0], np.cumsum(steps)]), step)
        said.append(
            f"the step between slices changes from {steps.min():.2f} to {steps.max():.2f} mm: resampled to "
            f"{step:.2f} mm, and the mask lies on the resampled grid"
        )
    else:
        step = float(steps.mean())
    told = first.spacing
    if told and len(places) > 1 and abs(told - step) > UNEVEN * step and not said:
        said.append(f"Spacing Between Slices says {told:.2f} mm, the slices' positions {step:.2f} mm: these are used")
    direction = np.stack([*first.axes, first.normal], axis=1)
    spacing = np.array([*first.pixel, step])
    return Stored(array[0] if bvalues is None else array, spacing, places[0], direction, tuple(said), bvalues)


def _values(pixels: npt.NDArray[np.generic], volume: Sequence[Slice]) -> npt.NDArray[np.generic]:
    """A volume's planes in order, as the numbers they mean: each slice by its own slope and intercept."""
    array = pixels[[one.number for one in volume]]
    slopes, intercepts = ([getattr(one, name) for one in volume] for name in ("slope", "intercept"))
    if set(slopes) == {1.0} and set(intercepts) == {0.0}:
        return array
    scaled = array.astype(np.float32)
    scaled *= np.array(slopes, dtype=np.float32)[:, None, None]
    scaled += np.array(intercepts, dtype=np.float32)[:, None, None]
    return scaled


def _volumes(folder: Path, ordered: Sequence[Slice]) -> tuple[list[list[Slice]], tuple[float, ...] | None]:
    """The volumes of a stack and their b-values: several where every place holds one slice of each."""
    places: list[list[Slice]] = []
    for one in ordered:
        if places and np.linalg.norm(one.position - places[-1][0].position) < ALIKE:
            places[-1].append(one)
        else:
            places.append([one])
    count = len(places[0])
    if {len(place) for place in places} == {1}:
        return [list(ordered)], None
    if {len(place) for place in places} != {count} or any(one.b is None for one in ordered):
        raise InputError(
            f"{folder}: expected evenly spaced slices, found steps of 0.00 mm: {len(ordered)} slices at {len(places)} "
            "places; give one volume a folder"
        )
    for place in places:
        place.sort(key=lambda one: (one.b or 0.0, one.number))
    volumes = [[place[number] for place in places] for number in range(count)]
    if any(len({one.b for one in volume}) > 1 for volume in volumes):
        raise InputError(f"{folder}: expected every b-value at every place, found some missing; add the missing slices")
    return volumes, tuple(float(volume[0].b or 0.0) for volume in volumes)


def _steps(folder: Path, volume: Sequence[Slice], places: Matrix) -> Matrix:
    """Millimetres from slice to slice; of a single slice its thickness."""
    if len(volume) == 1:
        alone = volume[0].spacing or volume[0].thickness
        if not alone > 0:
            raise InputError(f"{folder}: a single slice without a thickness; give the series")
        return np.array([alone])
    steps: Matrix = np.linalg.norm(np.diff(places, axis=0), axis=1)
    along = (places[-1] - places[0]) / np.linalg.norm(places[-1] - places[0])
    tilt = math.degrees(math.acos(min(1.0, abs(float(along @ volume[0].normal)))))
    if tilt > TILT_DEGREES:
        raise InputError(
            f"{folder}: expected slices stacked along their normal, found a gantry tilt of {tilt:.1f} degrees; convert "
            "the series with dcm2niix, which takes the tilt out"
        )
    # Where a slice is missing one step stands alone; where the step was changed, as head CT does, several are alike.
    changes = np.flatnonzero(np.abs(np.diff(steps)) > UNEVEN * np.minimum(steps[1:], steps[:-1])) + 1
    runs = np.diff([0, *changes, len(steps)])
    if len(changes) and (runs.min() < 2 or steps.max() > MOST_BETWEEN * steps.min()):
        raise InputError(
            f"{folder}: expected evenly spaced slices, found steps of {steps.min():.2f} to {steps.max():.2f} mm; "
            "add the missing slice, or give one volume a folder"
        )
    return steps


def _evenly(array: npt.NDArray[Any], places: Matrix, step: float) -> npt.NDArray[Any]:
    """Volumes (T, Z, Y, X) at even steps from the first place on, linearly between the slices that are there."""
    wanted = np.arange(0.0, places[-1] + 1e-3 * step, step)
    below = np.clip(np.searchsorted(places, wanted, side="right") - 1, 0, len(places) - 2)
    share = ((wanted - places[below]) / (places[below + 1] - places[below])).astype(np.float32)[:, None, None]
    even: npt.NDArray[Any] = array[:, below] * (1 - share) + array[:, below + 1] * share
    return even
