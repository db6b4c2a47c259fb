"""From probabilities on the model's grid to labels on the reference grid."""

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from segsync.arrays import Array, LabelMap, Mask, bounding_box
from segsync.bundle import InferenceSpec
from segsync.errors import memory_errors
from segsync.geometry import Grid, Volume, resample

#: What `labels_on` holds at its peak for each voxel of the reference grid: two sums, one label's map twice (ITK's and
#: ours), labels.
BYTES_A_VOXEL = 17


def labels_on(probabilities: Array, grid: Grid, reference: Grid, spec: InferenceSpec) -> tuple[LabelMap, int]:
    """Labels (Z, Y, X) uint8 on the reference grid, and how many small components were removed.

    probabilities: (L, Z, Y, X) of the foreground labels on the model's grid. They are interpolated to the reference
    grid one label at a time, so that a whole-body CT never needs more than BYTES_A_VOXEL. A voxel is foreground where
    their sum reaches `spec.threshold`, and then takes the likeliest label. Raises MemoryError.
    """
    best = np.zeros(reference.size_zyx, dtype=np.float32)
    total = np.zeros_like(best)
    labels = np.zeros(reference.size_zyx, dtype=np.uint8)
    for value, probability in zip(spec.labels, probabilities, strict=True):
        here = resample(Volume(probability, grid), reference)
        total += here
        labels[here > best] = value
        np.maximum(best, here, out=best)
        del here  # before the next label's map is made
    labels[total < spec.threshold] = 0
    del best, total
    return remove_small(labels, reference, spec.min_component_ml)


def remove_small(labels: LabelMap, grid: Grid, min_component_ml: float) -> tuple[LabelMap, int]:
    """Labels without the 26-connected components of each label that are smaller than so many millilitres."""
    removed = 0
    voxels = min_component_ml / grid.voxel_ml
    if voxels <= 1 or not labels.any():
        return labels, 0
    inside = labels[bounding_box(labels > 0)]  # a view: what is removed there is removed from the labels
    for value in np.unique(inside[inside > 0]):
        components, count = components_of(inside == value)
        sizes = np.bincount(components.ravel(), minlength=count + 1)
        small = sizes < voxels
        small[0] = False
        inside[small[components]] = 0
        removed += int(small.sum())
    return labels, removed


def components_of(mask: Mask) -> tuple[npt.NDArray[np.uint32], int]:
    """26-connected components of a mask (Z, Y, X), numbered from 1 (0 is background), and their number."""
    with memory_errors():
        image = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), True)
        components: npt.NDArray[np.uint32] = sitk.GetArrayFromImage(image)
    return components, int(components.max(initial=0))
