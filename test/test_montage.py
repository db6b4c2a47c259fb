"""The picture: the right way round whatever the file, marked, and with every lesion in sight."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image, ImageDraw

from segmented import AXIAL, Array, coloured, phantom, result_of
from segsync.bundle import Bundle, ChannelSpec, Fixed
from segsync.drawing import COLOURS
from segsync.geometry import Grid, Volume
from segsync.montage import Picture, draw


def stored_as(image: Volume | Array, orientation: str) -> Volume:
    """An image, or a mask on AXIAL, with its voxels in another order."""
    array = image.array if isinstance(image, Volume) else image.astype(np.uint8)
    rotated = sitk.GetImageFromArray(array)
    rotated.SetSpacing(AXIAL.spacing_xyz)
    rotated.SetOrigin(AXIAL.origin)
    rotated = sitk.DICOMOrient(rotated, orientation)
    return Volume(sitk.GetArrayFromImage(rotated), Grid.of(rotated))


def panel_of(picture: Picture) -> Image.Image:
    """The slices without title and legend."""
    return picture.image.crop((0, 100, picture.image.width, picture.image.height - 52))


def first_slice(picture: Picture) -> Image.Image:
    panels = panel_of(picture)
    count = len(picture.slices)
    columns = min(4, count)
    return panels.crop((0, 0, panels.width // columns, panels.height // -(-count // columns)))


def test_picture_is_radiological_and_an_outline() -> None:
    picture = draw(result_of(*phantom()), "x")
    first = first_slice(picture)
    rows, columns = np.nonzero(coloured(first, COLOURS[0]))
    assert columns.min() > first.width / 2, "the patient's left is on the viewer's right"
    assert rows.max() < first.height / 2, "anterior is up"
    inside = np.asarray(first)[rows.min() + 4 : rows.max() - 3, columns.min() + 4 : columns.max() - 3]
    assert inside.size > 500
    assert (inside == inside[..., :1]).all(), "the lesion itself stays grey"


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR"])
def test_sides_height_and_scale_are_marked(orientation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """R on the viewer's left, the slice's own z, and a bar as long as 50 mm of the picture."""
    marks = []
    draw_text = ImageDraw.ImageDraw.text

    def noted(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, *others: Any, **options: Any) -> None:
        marks.append((text, place))
        draw_text(pen, place, text, *others, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    reference, lesion = phantom()
    picture = draw(result_of(stored_as(reference, orientation), stored_as(lesion, orientation).array), "x")
    places = dict(marks[:3])
    assert places["R"][0] < places["L"][0]
    z = AXIAL.points([picture.slices[0], 0, 0])[2]
    assert marks[0][0] == f"z {z:+.0f} mm"
    columns = np.nonzero(coloured(first_slice(picture), COLOURS[0]))[1]
    pixels_per_mm = (np.ptp(columns) + 1 - 4) / 12  # six voxels of 2 mm, and two pixels outside of either edge
    foot = coloured(picture.image.crop((0, picture.image.height - 52, *picture.image.size)), (255, 255, 255))
    longest = max(len(run) for row in foot for run in "".join(" #"[int(pixel)] for pixel in row).split())
    assert longest == pytest.approx(50 * pixels_per_mm, rel=0.05)


def test_a_ct_is_shown_in_the_window_that_the_network_sees() -> None:
    """35 HU between 0 and 80 is a grey of 112; bone is white."""
    array = np.full(AXIAL.size_zyx, 3000.0)
    array[:, 20:40, 15:35] = 35.0
    result = result_of(Volume(array, AXIAL), np.zeros(AXIAL.size_zyx))
    window = ChannelSpec(name="t1", normalisation=Fixed(low=0, high=80, mean=30, std=20))
    spec = result.bundle.spec.model_copy(update={"channels": (window,)})
    first = np.asarray(first_slice(draw(replace(result, bundle=Bundle(result.bundle.folder, spec)), "x")))
    grey = first[first.shape[0] // 2, first.shape[1] // 2]
    assert grey.tolist() == [112, 112, 112]
    assert first.max() == 255


@pytest.mark.parametrize("size", [(3, 40, 160), (3, 160, 40)], ids=["wide", "tall"])
def test_a_slice_keeps_its_shape_and_fits_its_panel(size: tuple[int, int, int]) -> None:
    grid = replace(AXIAL, size_zyx=size)
    picture = draw(result_of(Volume(np.full(size, 100, np.int16), grid), np.zeros(size)), "x")
    panels = np.asarray(panel_of(picture)) > 90
    height, width = (np.ptp(np.flatnonzero(panels.any(axis=(other, 2)))) + 1 for other in (1, 0))
    one = (width - 2 * 14) / 3  # of three in a row
    assert one <= 360
    assert height <= 440
    assert one / height == pytest.approx(size[2] / size[1], rel=0.05)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LAS", "PIR", "ASL", "SRP", "IAL"])
def test_picture_does_not_depend_on_how_the_file_is_stored(orientation: str) -> None:
    reference, lesion = phantom()
    other = draw(result_of(stored_as(reference, orientation), stored_as(lesion, orientation).array), "x")
    assert other.image == draw(result_of(reference, lesion), "x").image


def test_a_single_voxel_of_a_large_image_is_seen() -> None:
    grid = replace(AXIAL, size_zyx=(3, 900, 900), spacing_zyx=(5.0, 0.25, 0.25))
    image = np.full(grid.size_zyx, 100, dtype=np.int16)
    image[:, ::7] = 50
    for row, column in ((450, 451), (333, 700), (871, 12)):
        mask = np.zeros(grid.size_zyx, dtype=np.uint8)
        mask[1, row, column] = 1
        picture = draw(result_of(Volume(image, grid), mask), "x")
        assert (picture.slices, picture.shown) == ((1,), "the slice with lesion")
        assert coloured(panel_of(picture), COLOURS[0]).sum() >= 8


def test_a_lesion_beside_all_that_shines_is_seen() -> None:
    """The picture is cut about the patient and about what was segmented."""
    image, mask = np.zeros((2, *AXIAL.size_zyx), dtype=np.uint8)
    image[:, 40:50, 30:40] = 100
    mask[15, 3, 3] = 1
    assert coloured(panel_of(draw(result_of(Volume(image, AXIAL), mask), "x")), COLOURS[0]).sum() >= 8


def test_each_label_keeps_its_colour_where_one_lies_in_another() -> None:
    reference, _ = phantom()
    mask = np.zeros(AXIAL.size_zyx, dtype=np.uint8)
    mask[15, 20:40, 15:35] = 2
    mask[15, 28:32, 22:27] = 1
    panel = panel_of(draw(result_of(reference, mask, labels={1: "core", 2: "rim"}), "x"))
    core, rim = coloured(panel, COLOURS[0]), coloured(panel, COLOURS[1])
    boxes = [(np.nonzero(line)[0].min(), np.nonzero(line)[0].max()) for line in (core, rim)]
    assert boxes[1][0] < boxes[0][0] < boxes[0][1] < boxes[1][1]
    between = slice(boxes[0][0], boxes[0][1] + 1), slice(np.nonzero(core)[1].min(), np.nonzero(core)[1].max() + 1)
    assert not rim[between].any(), "the rim's line stays out of the core"


def test_slices_are_spread_over_the_lesion_and_take_its_widest() -> None:
    grid = replace(AXIAL, size_zyx=(60, 60, 50), spacing_zyx=(1.5, 2.0, 2.0))
    reference, _ = phantom(grid)
    mask = np.zeros(grid.size_zyx, dtype=np.uint8)
    mask[5:53, 30:32, 20:22] = 1  # 48 slices: four a picture
    mask[18, 25:40, 15:30] = 1
    picture = draw(result_of(reference, mask), "x")
    assert len(picture.slices) == 12
    assert picture.lesion_slices == 48
    assert picture.shown == "12 of 48 slices with lesion"
    assert 18 in picture.slices
    assert all(first <= number < first + 4 for number, first in zip(picture.slices, range(5, 53, 4), strict=True))


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_an_image_without_contrast_is_drawn(value: float) -> None:
    image = np.full(AXIAL.size_zyx, value, dtype=np.float32)
    picture = draw(result_of(Volume(image, AXIAL), np.zeros(AXIAL.size_zyx)), "x")
    assert 1 <= len(picture.slices) <= 12
