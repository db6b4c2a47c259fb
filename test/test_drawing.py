"""Slices with outlines: every mask in sight, reference and prediction side by side, planes the right way up."""

import numpy as np
import pytest

from segmented import coloured
from segsync.drawing import COLOURS, PREDICTED, REFERENCE, draw_slice, grey_window, spread
from segsync_train.data.cases import LabelledCase
from segsync_train.trainer.figures import ZOOM, overlay


def test_masks_that_overlap_keep_their_whole_lines() -> None:
    """The prediction lies over the left half of the reference: the reference's line goes on inside of it."""
    image = np.zeros((20, 40))
    reference, predicted = np.zeros((2, 20, 40), bool)
    reference[5:15, 10:30] = True
    predicted[3:17, 6:20] = True
    picture = draw_slice(image, (0, 1), [(reference, REFERENCE), (predicted, PREDICTED)], pixels_per_mm=8)
    blue, orange = (np.argwhere(coloured(picture, colour)) for colour in (REFERENCE, PREDICTED))
    assert blue[:, 1].min() == 8 * 10 - 2  # two pixels outside of the voxels' edges
    assert blue[:, 1].max() == 8 * 30 + 1
    assert orange[:, 1].min() == 8 * 6 - 2


def test_a_fill_colours_the_mask_alone_and_leaves_the_image_in_sight() -> None:
    image = np.full((10, 10), 1.0)
    mask = np.zeros((10, 10), bool)
    mask[2:8, 2:8] = True
    picture = np.asarray(draw_slice(image, (0, 2), [(mask, COLOURS[0])], pixels_per_mm=10, fill=0.5))
    grey = 128
    assert picture[5, 5].tolist() == [grey] * 3
    assert picture[50, 50] == pytest.approx([(grey + part) / 2 for part in COLOURS[0]], abs=1)


def test_slices_are_spread_over_what_is_held() -> None:
    assert spread([0, 0, 0], 4) == ()
    assert spread([0, 3, 0, 1], 4) == (1, 3)
    areas = [0, *[1] * 9, 5, 1, 1]  # 12 that hold something, the widest at 10
    assert spread(areas, 3) == (3, 7, 10)


def test_values_that_are_no_numbers_do_not_set_the_grey() -> None:
    values = np.array([np.nan, np.inf, *range(101)])
    assert grey_window(values, (0, 100)) == (0, 100)
    assert grey_window(np.array([np.nan])) == (0, 1)
    assert np.asarray(draw_slice(np.full((2, 2), np.nan), (5, 5))).max() == 0


def test_planes_of_a_case_have_superior_up() -> None:
    """A bright slab in the uppermost slices: in the coronal and the sagittal plane it is at the top."""
    image = np.zeros((1, 12, 10, 8), np.float32)
    image[0, 10:] = 1.0
    label = np.zeros((12, 10, 8), np.uint8)
    label[4, 3, 2] = 1
    points = np.zeros((0, 3), np.int32)
    case = LabelledCase("a", image, label, label > 0, points, points, (0.0,), (1.0, 1.0, 1.0))
    drawn = overlay(case, np.zeros_like(label))
    picture = np.asarray(drawn)
    coronal, sagittal = picture[:, 9 * ZOOM : 17 * ZOOM], picture[:, 18 * ZOOM :]
    for plane in (coronal, sagittal):
        assert plane[: 2 * ZOOM - 3, :ZOOM].min() > 200
        assert plane[3 * ZOOM : 6 * ZOOM, :ZOOM].max() == 0
    rows, columns = np.nonzero(coloured(drawn.crop((0, 0, 8 * ZOOM, 10 * ZOOM)), REFERENCE))
    assert (rows.mean() // ZOOM, columns.mean() // ZOOM) == (3, 2)
