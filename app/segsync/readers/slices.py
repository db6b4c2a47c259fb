"""Slices of a DICOM series put together: sorted by their place in the patient, evenly spaced, upright, whole."""

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
#: Millimetres by which slices may lie aside of one another, as a tilted gantry has them, and be taken as upright.
ASIDE_MM = 1.0
#: No gantry tilts further.
MOST_TILT_DEGREES = 45.0
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
        thickness: Millimetres, 0 if not stored.
        spacing: Likewise.
        b: In s/mm², if stored.
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
        InputError: Slices are of several kinds, lie twice, lack one among them, or lie apart.
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
    origin = places[0]
    steps = _steps(folder, ordered[0], (places - origin) @ first.normal)
    array = np.stack([_values(pixels, volume) for volume in ordered])
    said: list[str] = []
    aside = (places - origin) @ first.axes.T
    if np.abs(aside).max() > ASIDE_MM:
        _check_aside(folder, aside, float(steps.sum()), np.array(array.shape[:-3:-1]) * first.pixel)
        array, start = _upright(array, aside / first.pixel)
        origin = origin + (start * first.pixel) @ first.axes
        said.append(
            f"the slices lie up to {np.linalg.norm(aside, axis=1).max():.0f} mm aside of one another, as a tilted "
            "gantry has them: resampled to stand upright, and the mask lies on the resampled grid"
        )
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
    return Stored(array[0] if bvalues is None else array, spacing, origin, direction, tuple(said), bvalues)


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


def _steps(folder: Path, volume: Sequence[Slice], heights: Matrix) -> Matrix:
    """Millimetres from slice to slice along their normal; of a single slice its thickness. heights: mm, ascending."""
    if len(volume) == 1:
        alone = volume[0].spacing or volume[0].thickness
        if not alone > 0:
            raise InputError(f"{folder}: a single slice without a thickness; give the series")
        return np.array([alone])
    steps: Matrix = np.diff(heights)
    # Where a slice is missing one step stands alone; where the step was changed, as head CT does, several are alike.
    changes = np.flatnonzero(np.abs(np.diff(steps)) > UNEVEN * np.minimum(steps[1:], steps[:-1])) + 1
    runs = np.diff([0, *changes, len(steps)])
    if steps.min() < ALIKE or (len(changes) and (runs.min() < 2 or steps.max() > MOST_BETWEEN * steps.min())):
        raise InputError(
            f"{folder}: expected evenly spaced slices, found steps of {steps.min():.2f} to {steps.max():.2f} mm; "
            "add the missing slice, or give one volume a folder"
        )
    return steps


def _check_aside(folder: Path, aside: Matrix, height: float, extent: Matrix) -> None:
    """Raise InputError where slices lie further aside than a gantry tilts. extent: mm of a slice, as `aside` (x, y)."""
    tilt = math.degrees(math.atan2(float(np.ptp(aside, axis=0).max()), height))
    if tilt > MOST_TILT_DEGREES or (np.ptp(aside, axis=0) > extent).any():
        raise InputError(
            f"{folder}: expected slices above one another, found some {np.ptp(aside, axis=0).max():.0f} mm aside over "
            f"a height of {height:.0f} mm; give one volume a folder"
        )


def _upright(array: npt.NDArray[Any], pixels: Matrix) -> tuple[npt.NDArray[np.float32], Matrix]:
    """Volumes (T, Z, Y, X) whose slices lie `pixels` (x, y) aside, each brought to its place on one grid for all.

    Returns it and where it begins in pixels (x, y). Outside of a slice it holds the lowest value that there is, as air.
    """
    start, end = np.floor(pixels.min(axis=0)), np.ceil(pixels.max(axis=0))
    more = (end - start).astype(int)
    count, depth, rows, columns = array.shape
    upright = np.empty((count, depth, rows + more[1], columns + more[0]), dtype=np.float32)
    air = float(array.min())
    for number, (x, y) in enumerate(pixels - start):
        plane = _moved(array[:, number].astype(np.float32), x, -1, upright.shape[-1], air)
        upright[:, number] = _moved(plane, y, -2, upright.shape[-2], air)
    return upright, start


def _moved(
    plane: npt.NDArray[np.float32], pixels: float, axis: int, size: int, outside: float
) -> npt.NDArray[np.float32]:
    """An array moved along an axis by a part of a pixel or many, linearly between those that are there."""
    at = np.arange(size) - pixels
    below = np.floor(at).astype(int)
    share = (at - below).astype(np.float32)[(...,) + (None,) * (-1 - axis)]
    width = [(1, 1) if side == plane.ndim + axis else (0, 0) for side in range(plane.ndim)]
    framed = np.pad(plane, width, constant_values=outside)
    last = framed.shape[axis] - 1
    lower, upper = (np.take(framed, np.clip(below + more, 0, last), axis) for more in (1, 2))
    moved: npt.NDArray[np.float32] = lower * (1 - share) + upper * share
    return moved


def _evenly(array: npt.NDArray[Any], places: Matrix, step: float) -> npt.NDArray[Any]:
    """Volumes (T, Z, Y, X) at even steps from the first place on, linearly between the slices that are there."""
    wanted = np.arange(0.0, places[-1] + 1e-3 * step, step)
    below = np.clip(np.searchsorted(places, wanted, side="right") - 1, 0, len(places) - 2)
    share = ((wanted - places[below]) / (places[below + 1] - places[below])).astype(np.float32)[:, None, None]
    even: npt.NDArray[Any] = array[:, below] * (1 - share) + array[:, below + 1] * share
    return even
