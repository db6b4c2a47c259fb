"""Types of arrays, all in (Z, Y, X) order, and what is asked of them alone."""

import numpy as np
import numpy.typing as npt

#: Values of an image or of a network: (Z, Y, X), or (C, Z, Y, X) with channels.
Array = npt.NDArray[np.float32]
#: Which voxels belong to something.
Mask = npt.NDArray[np.bool_]
#: Coordinates, matrices, measurements.
FloatArray = npt.NDArray[np.float64]
#: A label for every voxel; 0 is background.
LabelMap = npt.NDArray[np.uint8]
Triple = tuple[float, float, float]
SizeZYX = tuple[int, int, int]


def bounding_box(mask: Mask) -> tuple[slice, slice, slice]:
    """The smallest box that holds every true voxel.

    Args:
        mask: (Z, Y, X), with at least one true voxel.

    Returns:
        A slice of each axis.
    """
    ranges = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    z, y, x = (slice(int(r[0]), int(r[-1]) + 1) for r in ranges)
    return z, y, x
