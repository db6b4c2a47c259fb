"""From probabilities on the model's grid to labels on the reference grid."""

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from segsync.arrays import Array, LabelMap, Mask, bounding_box
from segsync.bundle import InferenceSpec
from segsync.errors import memory_errors
from segsync.geometry import Grid, Volume, resampled_slabs

#: What `labels_on` holds at its peak for each voxel of the reference grid, where a label fills it: the labels (of
#: regions twice), their confidence, and the label's mask (ours and ITK's) and components.
BYTES_A_VOXEL = 12


def labels_on(probabilities: Array, grid: Grid, reference: Grid, spec: InferenceSpec) -> tuple[LabelMap, int]:
    """Labels on the reference grid, without components that are small or unsure.

    Probabilities are interpolated to the reference grid slab by slab, so that a whole-body CT never needs more than
    BYTES_A_VOXEL. A voxel is foreground where their sum reaches `spec.threshold`, and then takes the likeliest label.
    Regions are found and cleaned each by itself, by their own operating points, and written in their order.

    Args:
        probabilities: (L, Z, Y, X) of the foreground labels.
        grid: The model's, on which they lie.
        reference: The grid of the labels.
        spec: Labels and operating point.

    Returns:
        (Z, Y, X) uint8, and how many components were removed.

    Raises:
        MemoryError: Memory has ended.
    """
    if spec.regions:
        return _regions_on(probabilities, grid, reference, spec)
    labels = np.zeros(reference.size_zyx, dtype=np.uint8)
    confidence = np.zeros(reference.size_zyx, dtype=np.float32)  # takes memory where it is written alone
    maps = (resampled_slabs(Volume(probability, grid), reference) for probability in probabilities)
    for slab in zip(*maps, strict=True):
        part = slab[0][0]
        here = labels[part]  # a view
        best = np.zeros(here.shape, dtype=np.float32)
        total = np.zeros_like(best)
        for value, (_, probability) in zip(spec.labels, slab, strict=True):
            total += probability
            here[probability > best] = value
            np.maximum(best, probability, out=best)
        here[total < spec.threshold] = 0
        if here.any():
            box = bounding_box(here > 0)
            confidence[part][box] = total[box]
    return remove_components(labels, confidence, reference, spec.min_component_ml, spec.min_component_confidence)


def _regions_on(probabilities: Array, grid: Grid, reference: Grid, spec: InferenceSpec) -> tuple[LabelMap, int]:
    """As `labels_on`, of labels that overlap."""
    labels, removed = np.zeros(reference.size_zyx, dtype=np.uint8), 0
    for (value, name), probability in zip(spec.labels.items(), probabilities, strict=True):
        own = {"region_decisions": {}, **dict(spec.decision_of(value))}
        alone = spec.model_copy(update={"labels": {value: name}, "regions": {}, **own})
        found, small = labels_on(probability[np.newaxis], grid, reference, alone)
        np.copyto(labels, found, where=found > 0)
        removed += small
    return labels, removed


def of_any_label(probabilities: Array, *, overlapping: bool) -> Array:
    """The probability (Z, Y, X) of any label together; of regions, which overlap, that of the likeliest.

    Args:
        probabilities: (L, Z, Y, X).
        overlapping: Whether labels overlap (regions).

    Returns:
        Their sum, or their maximum.
    """
    together: Array = probabilities.max(axis=0) if overlapping else probabilities.sum(axis=0)
    return together


def remove_components(
    labels: LabelMap, probability: Array, grid: Grid, min_ml: float, min_confidence: float
) -> tuple[LabelMap, int]:
    """Take away the components that are too small or too unsure to be kept.

    Args:
        labels: (Z, Y, X), changed in place.
        probability: (Z, Y, X) of any label together.
        grid: The grid of both.
        min_ml: 26-connected components of each label that are smaller than so many millilitres go.
        min_confidence: Components whose highest probability stays below this go.

    Returns:
        The labels, and the number of components removed.
    """
    removed = 0
    voxels = min_ml / grid.voxel_ml
    if (voxels <= 1 and min_confidence <= 0) or not labels.any():
        return labels, 0
    box = bounding_box(labels > 0)
    inside, probability = labels[box], probability[box]  # views: what is removed there is removed from the labels
    for value in np.unique(inside[inside > 0]):
        components, _ = components_of(inside == value)
        sizes, peaks = sizes_and_peaks(components, probability)
        out = (sizes < voxels) | (peaks < min_confidence)
        out[0] = False
        for plane, numbers in zip(inside, components, strict=True):  # an index takes eight bytes a voxel
            plane[out[numbers]] = 0
        removed += int(out.sum())
    return labels, removed


def sizes_and_peaks(
    components: npt.NDArray[np.unsignedinteger], probability: Array
) -> tuple[npt.NDArray[np.int64], Array]:
    """Voxels and highest probability of each numbered component, by its number; those of the background (0) are 0."""
    count = int(components.max(initial=0)) + 1
    sizes, peaks = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.float32)
    for numbers, heights in zip(components, probability, strict=True):
        inside = numbers > 0
        found = numbers[inside]
        sizes += np.bincount(found, minlength=count)
        np.maximum.at(peaks, found, heights[inside])
    return sizes, peaks


def components_of(mask: Mask) -> tuple[npt.NDArray[np.uint32], int]:
    """26-connected components of a mask (Z, Y, X), numbered from 1 (0 is background), and their number."""
    with memory_errors():
        image = sitk.ConnectedComponent(sitk.GetImageFromArray(mask.view(np.uint8)), True)
        components: npt.NDArray[np.uint32] = np.asarray(_Pixels(image))
    return components, int(components.max(initial=0))


class _Pixels:
    """An ITK image's voxels, read without a copy; arrays of them keep the image."""

    def __init__(self, image: sitk.Image) -> None:
        self.image = image
        self.__array_interface__ = sitk.GetArrayViewFromImage(image).__array_interface__
