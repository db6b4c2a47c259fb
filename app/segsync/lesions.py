"""Lesions of a mask, one by one: volume, place and largest diameter, in patient millimetres.

No side is given: where the midsagittal plane runs, neither the grid nor the origin tells. The x of the centroid and the
marks of the picture show what is known.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segsync.arrays import LabelMap, Mask, Triple, bounding_box
from segsync.geometry import Grid
from segsync.postprocess import components_of

Points = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

#: Points that are compared with all others at once: bounds the memory of a pairwise search.
BLOCK = 256


@dataclass(frozen=True)
class Lesion:
    """One 26-connected component of one label.

    Attributes:
        number: From 1, the largest first.
        label: The label's value in the mask.
        label_name: Its name.
        voxels: Their number.
        volume_ml: Their volume.
        centroid_lps_mm: Mean of the voxel centres (x to the patient's left, y to posterior, z to superior).
        largest_diameter_mm: Greatest distance between two voxel centres; 0 for a single voxel.
    """

    number: int
    label: int
    label_name: str
    voxels: int
    volume_ml: float
    centroid_lps_mm: Triple
    largest_diameter_mm: float


def measure(
    mask: LabelMap, grid: Grid, labels: Mapping[int, str], regions: Mapping[int, Sequence[int]] | None = None
) -> list[Lesion]:
    """The lesions of a mask, the largest first; lesions of two labels that touch are two.

    Args:
        mask: (Z, Y, X).
        grid: Its place in space.
        labels: The name of each value that counts as lesion.
        regions: The values that each label is the union of, where labels overlap; a voxel is then part of a lesion of
            each.

    Returns:
        Each with volume, place and extent.
    """
    found = [(value, index) for value in labels for index in _components(within(mask, value, regions))]
    found.sort(key=lambda one: len(one[1]), reverse=True)
    lesions = []
    for number, (value, index) in enumerate(found, start=1):
        x, y, z = (float(mm) for mm in grid.points(index.mean(axis=0)))
        lesions.append(
            Lesion(
                number=number,
                label=value,
                label_name=labels[value],
                voxels=len(index),
                volume_ml=len(index) * grid.voxel_ml,
                centroid_lps_mm=(x, y, z),
                largest_diameter_mm=largest_distance(grid.points(_possible_ends(index))),
            )
        )
    return lesions


def lesion_count(mask: LabelMap, lesions: Sequence[Lesion], regions: Mapping[int, Sequence[int]] | None = None) -> int:
    """How many lesions a mask (Z, Y, X) shows; of regions, which lie within each other, the components of all."""
    return components_of(mask > 0)[1] if regions else len(lesions)


def within(array: npt.NDArray[np.generic], label: int, regions: Mapping[int, Sequence[int]] | None) -> Mask:
    """Where a label map (Z, Y, X) shows a label: its value, or with regions any value that it is the union of."""
    here: Mask = np.isin(array, regions[label]) if regions else array == label
    return here


def _components(here: Mask) -> Iterator[Indices]:
    """Voxels (N, 3) in (Z, Y, X) of each component of a mask."""
    if not here.any():
        return
    box = bounding_box(here)
    components, count = components_of(here[box])
    voxels = np.argwhere(components)
    numbers = components[components > 0]
    order = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers, minlength=count + 1)[1:])
    first = [side.start for side in box]
    yield from np.split(voxels[order] + first, ends[:-1])


def _possible_ends(index: Indices) -> Indices:
    """The voxels (N, 3) that can be an end of the largest diameter, among those of one lesion.

    The ends of a diameter are corners of the convex hull. A voxel between two others of its lesion on a straight line
    is no corner: only those stay that are first or last on all three axis lines through them.
    """
    first = index.min(axis=0)
    here = np.zeros(index.max(axis=0) - first + 1, dtype=bool)
    here[tuple((index - first).T)] = True
    outer = here.copy()
    for axis in range(3):
        before = np.logical_or.accumulate(here, axis=axis)
        after = np.flip(np.logical_or.accumulate(np.flip(here, axis), axis=axis), axis)
        # Inside: something of the lesion lies on both sides.
        inside = np.zeros_like(here)
        middle = [slice(None)] * 3
        lower, upper = middle.copy(), middle.copy()
        middle[axis], lower[axis], upper[axis] = slice(1, -1), slice(None, -2), slice(2, None)
        inside[tuple(middle)] = before[tuple(lower)] & after[tuple(upper)]
        outer &= ~inside
    ends: Indices = np.argwhere(outer) + first
    return ends


def largest_distance(points: Points) -> float:
    """The greatest distance between any two of the points (N, 3), exactly; 0 for a single point.

    Points are taken from the farthest from their centre inwards: once twice a radius is below what was found, no pair
    further in can exceed it.
    """
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    radii = np.linalg.norm(points - centre, axis=1)
    order = np.argsort(-radii)
    points, radii = points[order], radii[order]
    largest = 0.0
    for start in range(0, len(points), BLOCK):
        if radii[0] + radii[start] < largest:
            break
        stop = start + BLOCK
        squares = sum(
            (points[start:stop, axis, None] - points[None, :stop, axis]) ** 2 for axis in range(points.shape[1])
        )
        largest = max(largest, float(np.sqrt(np.max(squares))))
    return largest
