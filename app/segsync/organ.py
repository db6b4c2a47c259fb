"""An organ that lies in one piece, as the brain does: what belongs to it beside what the network found."""

import numpy as np
import SimpleITK as sitk

from segsync.arrays import Array, LabelMap, Mask, bounding_box
from segsync.bundle import OrganSpec
from segsync.errors import memory_errors
from segsync.geometry import Grid, Volume
from segsync.postprocess import components_of

#: A network finds 0.89 to 0.98 of a brain whose skull was removed, and less than half of a head.
CUT_OUT = 0.7
#: Interpolation leaves traces beside what was cut out; brighter than this fraction of the image's bright end is shown.
TRACE = 0.01


def in_one_piece(probabilities: Array, grid: Grid, threshold: float, organ: OrganSpec) -> Array:
    """An organ's largest component, its notches and holes filled.

    Args:
        probabilities: (1, Z, Y, X) on the model's grid.
        grid: The model's grid.
        threshold: Of the organ.
        organ: How far notches are closed.

    Returns:
        The probabilities (1, Z, Y, X), 0 in other components and 1 in what was filled.
    """
    components, count = components_of(probabilities[0] >= threshold)
    if count == 0:
        return probabilities
    largest = components == 1 + int(np.bincount(components.ravel())[1:].argmax())
    closed = _closed(largest, grid, organ.closing_mm)
    whole = np.where(components > 0, np.where(largest, probabilities[0], np.float32(0)), probabilities[0])
    return np.where(closed & ~largest, np.float32(1), whole)[np.newaxis]


def with_all_that_was_kept(labels: LabelMap, image: Volume, organ: OrganSpec) -> LabelMap:
    """The whole of an organ that was cut out of its image already, as a brain whose skull was removed.

    Whoever cut it out saw its border better than a network on a coarse grid does. Other images keep their labels.

    Args:
        labels: (Z, Y, X), a single one, on the image's grid.
        image: The image.
        organ: How far notches are closed.

    Returns:
        The labels (Z, Y, X).
    """
    found = labels > 0
    shown = _shown(image)
    if not found.any() or found.sum() < CUT_OUT * shown.sum():
        return labels
    shown |= found
    box = bounding_box(shown)
    components, _ = components_of(shown[box])
    # The piece in which most of the organ lies: eyes and vessels are sometimes left beside it.
    piece = components == np.bincount(components[found[box]]).argmax()
    whole = labels.copy()
    whole[box] = labels.max() * _closed(piece, image.grid, organ.closing_mm)
    return whole


def _shown(image: Volume) -> Mask:
    """Where an image (Z, Y, X) is not as its corners are; everywhere if these differ among themselves."""
    with np.errstate(over="ignore"):  # what float32 does not hold is no number elsewhere too
        array = np.nan_to_num(np.asarray(image.array, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    corners = array[np.ix_(*((0, side - 1) for side in array.shape))]
    background = float(corners.flat[0])
    if (corners != background).any() or array.max() <= background:
        return np.ones(array.shape, bool)
    bright = float(np.percentile(array[array > background], 98))
    shown: Mask = np.abs(array - background) > TRACE * (bright - background)
    return shown


def _closed(mask: Mask, grid: Grid, radius_mm: float) -> Mask:
    """The mask (Z, Y, X) closed by a ball, its holes filled."""
    radius = [round(radius_mm / side) for side in grid.spacing_zyx[::-1]]
    margin = [side + 1 for side in radius]
    with memory_errors():
        image = sitk.ConstantPad(sitk.GetImageFromArray(mask.astype(np.uint8)), margin, margin)
        if max(radius) > 0:
            image = sitk.BinaryMorphologicalClosing(image, radius, sitk.sitkBall)
        filled = sitk.Crop(sitk.BinaryFillhole(image), margin, margin)
        closed: Mask = sitk.GetArrayFromImage(filled) > 0
    return closed
