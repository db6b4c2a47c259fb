"""Pictures of segmentations while training: three planes of a case, the reference in green, the prediction in red."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from segsync.arrays import Array, LabelMap, Mask
from segsync.atomic import whole_file, why_not
from segsync.errors import OutputError
from segsync_train.data.cases import LabelledCase

Picture = npt.NDArray[np.uint8]

GREEN, RED = (60, 220, 80), (255, 70, 60)
#: Pixels for one voxel, so that an outline of one pixel leaves the voxel's grey visible.
ZOOM = 4


def save_overlay(case: LabelledCase, predicted: LabelMap, path: Path) -> None:
    """Write `overlay` as a PNG; raises OutputError."""
    picture = overlay(case, predicted)
    try:
        with whole_file(path) as part:
            Image.fromarray(picture).save(part, "PNG")
    except OSError as error:
        raise OutputError(f"{path}: expected to write the picture, found {why_not(path.parent, error)}") from error


def overlay(case: LabelledCase, predicted: LabelMap) -> Picture:
    """A picture: rows are channels, columns the axial, coronal and sagittal plane through most of the foreground.

    Superior and anterior are up; the patient's left is on the right, as radiologists look at it.
    """
    centre = _centre(np.asarray(case.label), predicted)
    rows = []
    for channel in case.image:
        rows.append([_plane(np.asarray(channel), np.asarray(case.label), predicted, axis, centre) for axis in range(3)])
    height = max(tile.shape[0] for row in rows for tile in row)
    picture: Picture = np.concatenate([np.concatenate([_filled(tile, height) for tile in row], axis=1) for row in rows])
    return picture


def _centre(reference: LabelMap, predicted: LabelMap) -> tuple[int, ...]:
    """The voxel where the three planes with most of the reference meet; without one, of the prediction; the middle."""
    shown = next((labels > 0 for labels in (reference, predicted) if labels.any()), None)
    if shown is None:
        return tuple(side // 2 for side in reference.shape)
    return tuple(int(shown.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3))


def _plane(image: Array, reference: LabelMap, predicted: LabelMap, axis: int, centre: tuple[int, ...]) -> Picture:
    low, high = np.percentile(image, (1, 99.5))
    grey = np.clip((np.take(image, centre[axis], axis) - low) / max(float(high - low), 1e-6), 0, 1)
    rgb = np.repeat(np.repeat((grey * 255).astype(np.uint8), ZOOM, 0), ZOOM, 1)[..., None].repeat(3, axis=2)
    for labels, colour in ((reference, GREEN), (predicted, RED)):
        plane = np.repeat(np.repeat(np.take(labels, centre[axis], axis), ZOOM, 0), ZOOM, 1)
        for value in np.unique(plane[plane > 0]):
            rgb[_outline(plane == value)] = colour
    # Axes run to superior and posterior: planes with a vertical z are rotated so that superior is up.
    return rgb if axis == 0 else rgb[::-1]


def _outline(mask: Mask) -> Mask:
    edge: Mask = mask & ~ndimage.binary_erosion(mask, border_value=1)
    return edge


def _filled(tile: Picture, height: int) -> Picture:
    return np.pad(tile, ((0, height - tile.shape[0]), (0, ZOOM), (0, 0)))
