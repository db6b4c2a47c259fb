"""Pictures of segmentations while training: three planes of a case, the reference in blue, the prediction in orange."""

from pathlib import Path

import numpy as np
from PIL import Image

from segsync.arrays import Array, LabelMap
from segsync.atomic import whole_file, why_not
from segsync.drawing import PREDICTED, REFERENCE, draw_slice, grey_window
from segsync.errors import OutputError
from segsync_train.data.cases import IGNORED, LabelledCase

#: Pixels for one voxel, so that an outline leaves the voxel's grey visible.
ZOOM = 6
#: What nobody labelled.
UNLABELLED = (150, 150, 150)


def save_overlay(case: LabelledCase, predicted: LabelMap, path: Path) -> None:
    """Write `overlay` as a PNG; raises OutputError."""
    picture = overlay(case, predicted)
    try:
        with whole_file(path) as part:
            picture.save(part, "PNG")
    except OSError as error:
        raise OutputError(f"{path}: expected to write the picture, found {why_not(path.parent, error)}") from error


def overlay(case: LabelledCase, predicted: LabelMap) -> Image.Image:
    """A picture: rows are channels, columns the axial, coronal and sagittal plane through most of the foreground.

    What nobody labelled is outlined in grey. Superior and anterior are up; the patient's left is on the right, as
    radiologists look at it.
    """
    reference = np.asarray(case.label)
    centre = _centre(np.where(case.ignored, 0, reference), predicted)
    rows = [
        [_plane(np.asarray(channel), reference, predicted, axis, centre[axis]) for axis in range(3)]
        for channel in case.image
    ]
    height = max(tile.height for row in rows for tile in row) + ZOOM
    widths = [tile.width + ZOOM for tile in rows[0]]
    picture = Image.new("RGB", (sum(widths), height * len(rows)))
    for line, row in enumerate(rows):
        for column, tile in enumerate(row):
            picture.paste(tile, (sum(widths[:column]), line * height))
    return picture


def _centre(reference: LabelMap, predicted: LabelMap) -> tuple[int, ...]:
    """The voxel where the three planes with most of the reference meet; without one, of the prediction; the middle."""
    shown = next((labels > 0 for labels in (reference, predicted) if labels.any()), None)
    if shown is None:
        return tuple(side // 2 for side in reference.shape)
    return tuple(int(shown.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3))


def _plane(image: Array, reference: LabelMap, predicted: LabelMap, axis: int, place: int) -> Image.Image:
    # Axes run to superior and posterior: planes with a vertical z are turned so that superior is up.
    values, drawn, found = (
        array if axis == 0 else array[::-1]
        for array in (np.take(whole, place, axis) for whole in (image, reference, predicted))
    )
    outlines = [
        (plane == value, UNLABELLED if value == IGNORED else colour)
        for plane, colour in ((drawn, REFERENCE), (found, PREDICTED))
        for value in np.unique(plane[plane > 0])
    ]
    return draw_slice(values, grey_window(image), outlines, pixels_per_mm=ZOOM)
