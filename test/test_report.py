"""The report: lesions measured right, the picture the right way round, a page that nothing hostile gets out of."""

import csv
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from PIL import Image, ImageDraw

from segsync.bundle import Bundle, ChannelSpec, Fixed, ModelSpec, ZScore
from segsync.errors import OutputError
from segsync.geometry import Grid, Volume
from segsync.lesions import largest_distance, measure
from segsync.montage import COLOURS, Picture, draw
from segsync.page import summary
from segsync.predict import Case, Result
from segsync.record import Report, record
from segsync.report import write_report
from segsync.sliding_window import Done
from segsync.tasks import TASKS

ONE_LABEL = {1: "lesion"}
AXIAL = Grid((30, 60, 50), (3.0, 2.0, 2.0), (-49.0, -59.0, -40.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
Array = npt.NDArray[np.generic]


def oblique(size_zyx: tuple[int, int, int]) -> Grid:
    """A grid turned by 30° about x and 20° about z, with three spacings."""
    a, b = np.deg2rad([30.0, 20.0])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return Grid(size_zyx, (4.8, 1.8, 0.9), (12.0, -30.0, 7.5), tuple((about_z @ about_x).ravel().tolist()))


def result_of(
    reference: Volume,
    mask: Array,
    *,
    labels: Mapping[int, str] = ONE_LABEL,
    name: str = "sub-01",
    source: Path | Volume | None = None,
    metadata: Mapping[str, object] | None = None,
    warnings: tuple[str, ...] = (),
) -> Result:
    """A result as the runtime gives it, for a mask that is known."""
    spec = ModelSpec(
        name="unet",
        task="isles26",
        channels=(ChannelSpec(name="t1", normalisation=ZScore()),),
        labels=dict(labels),
        spacing_zyx=reference.grid.spacing_zyx,
        patch_zyx=(32, 32, 32),
        multiple_zyx=(8, 8, 8),
        opset=18,
        sha256="0123456789abcdef" * 4,
        licence="Apache-2.0",
        threshold=0.35,
        min_component_ml=0.02,
        provenance={"data": "none"},
    )
    probabilities = np.stack([(mask == value).astype(np.float32) * np.float32(0.75) for value in labels])
    return Result(
        case=Case(name, {"t1": source if source is not None else reference}, metadata or {}),
        task=TASKS["isles26"],
        bundle=Bundle(Path("weights") / "isles26", spec),
        reference=reference,
        mask=mask.astype(np.uint8),
        model_probabilities=probabilities,
        model_grid=reference.grid,
        done=Done(6, 2, (16, 24, 32), 0.5, 2, ["deadline: 2 of 8 mirrored passes"]),
        device="cpu",
        warnings=warnings,
        seconds={"network": 1.25, "total": 1.5},
    )


def phantom(grid: Grid = AXIAL) -> tuple[Volume, Array]:
    """A grey ellipsoid with a bright cube at the patient's left front, outlined, and a dark one at the right back."""
    points = grid.points(np.stack(np.meshgrid(*(np.arange(n) for n in grid.size_zyx), indexing="ij"), axis=-1))
    centre = grid.points([(n - 1) / 2 for n in grid.size_zyx])
    x, y, z = np.moveaxis(points - centre, -1, 0)
    image = np.where((x / 40) ** 2 + (y / 50) ** 2 + (z / 42) ** 2 < 1, 100.0, 0.0)
    lesion = (abs(x - 20) < 7) & (abs(y + 20) < 7) & (abs(z) < 8)
    image[lesion] = 200.0
    image[(abs(x + 20) < 7) & (abs(y - 20) < 7) & (abs(z) < 8)] = 40.0
    return Volume(image.astype(np.float32), grid), lesion


def stored_as(image: Volume | Array, orientation: str) -> Volume:
    """An image, or a mask on AXIAL, with its voxels in another order."""
    array = image.array if isinstance(image, Volume) else image.astype(np.uint8)
    turned = sitk.GetImageFromArray(array)
    turned.SetSpacing(AXIAL.spacing_xyz)
    turned.SetOrigin(AXIAL.origin)
    turned = sitk.DICOMOrient(turned, orientation)
    return Volume(sitk.GetArrayFromImage(turned), Grid.of(turned))


def coloured(image: Image.Image, colour: tuple[int, int, int]) -> Array:
    here: Array = (np.asarray(image) == colour).all(axis=-1)
    return here


def panel_of(picture: Picture) -> Image.Image:
    """The slices without title and legend."""
    return picture.image.crop((0, 100, picture.image.width, picture.image.height - 52))


def first_slice(picture: Picture) -> Image.Image:
    panels = panel_of(picture)
    count = len(picture.slices)
    columns = min(4, count)
    return panels.crop((0, 0, panels.width // columns, panels.height // -(-count // columns)))


# --- lesions ---------------------------------------------------------------------------------------------------------


def test_a_bar_and_a_voxel_measured_by_hand() -> None:
    grid = oblique((10, 12, 14))
    mask = np.zeros(grid.size_zyx, dtype=np.uint8)
    mask[2, 3, 1:6] = 1  # five voxels along X, 0.9 mm apart
    mask[8, 9, 10] = 2
    bar, voxel = measure(mask, grid, {1: "core", 2: "rim"})
    assert (bar.number, bar.label, bar.label_name, bar.voxels) == (1, 1, "core", 5)
    assert bar.volume_ml == pytest.approx(5 * 4.8 * 1.8 * 0.9 / 1000)
    assert bar.largest_diameter_mm == pytest.approx(4 * 0.9)
    image = sitk.Image([14, 12, 10], sitk.sitkUInt8)
    image.SetSpacing(grid.spacing_xyz)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    assert bar.centroid_lps_mm == pytest.approx(image.TransformIndexToPhysicalPoint((3, 3, 2)))
    assert (voxel.number, voxel.label_name, voxel.largest_diameter_mm) == (2, "rim", 0.0)
    assert voxel.centroid_lps_mm == pytest.approx(image.TransformIndexToPhysicalPoint((10, 9, 8)))


def test_corners_connect_and_labels_do_not() -> None:
    mask = np.zeros((6, 6, 6), dtype=np.uint8)
    mask[1, 1, 1] = mask[2, 2, 2] = 1
    mask[3, 3, 3] = 2
    grid = oblique((6, 6, 6))
    assert [(lesion.label, lesion.voxels) for lesion in measure(mask, grid, {1: "a", 2: "b"})] == [(1, 2), (2, 1)]
    assert measure(np.zeros_like(mask), grid, ONE_LABEL) == []


@pytest.mark.parametrize("seed", range(8))
def test_largest_diameter_equals_the_search_over_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (9, 22, 25)
    smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(rng.normal(size=shape)), 2))
    mask = (smooth > np.quantile(smooth, 0.7)).astype(np.uint8)  # bent, hollow, of several pieces
    grid = oblique(shape)
    components = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(mask), True))
    expected = []
    for number in range(1, components.max() + 1):
        points = grid.points(np.argwhere(components == number))
        pairs = np.linalg.norm(points[:, None] - points[None], axis=-1)
        expected.append((len(points), pairs.max()))
    found = [(lesion.voxels, lesion.largest_diameter_mm) for lesion in measure(mask, grid, ONE_LABEL)]
    assert sorted(found) == [pytest.approx(pair) for pair in sorted(expected)]


def test_largest_distance_over_more_points_than_a_block() -> None:
    points = np.random.default_rng(0).normal(size=(1500, 3))
    pairs = np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert largest_distance(points) == pytest.approx(pairs.max(), rel=1e-12)


def test_a_largest_distance_may_end_far_further_in_than_it_begins() -> None:
    """A block of points at two corners of a cube, 20 mm apart; in the middles of two far faces the others, 24.5 mm."""
    rng = np.random.default_rng(0)
    corners = np.repeat([(10.0, 10.0, 10.0), (10.0, 10.0, -10.0)], 128, axis=0)
    points = np.concatenate([corners - rng.random(corners.shape) * 1e-3, [(-10.0, 0.0, 0.0), (0.0, -10.0, 0.0)]])
    assert largest_distance(points) == pytest.approx(np.sqrt(600), abs=0.01)


def test_real_lesions_as_itk_measures_them(shared_data: Path) -> None:
    path = sorted((shared_data / "lesion-masks-soop").rglob("*.nii.gz"))[3]
    image = sitk.Cast(sitk.ReadImage(str(path)) > 0, sitk.sitkUInt8)
    judge = sitk.LabelShapeStatisticsImageFilter()
    judge.ComputeFeretDiameterOn()
    judge.Execute(sitk.ConnectedComponent(image, True))
    expected = sorted(
        (judge.GetNumberOfPixels(n), judge.GetPhysicalSize(n) / 1000, judge.GetFeretDiameter(n), *judge.GetCentroid(n))
        for n in judge.GetLabels()
    )
    lesions = measure(sitk.GetArrayFromImage(image), Grid.of(image), ONE_LABEL)
    found = sorted((one.voxels, one.volume_ml, one.largest_diameter_mm, *one.centroid_lps_mm) for one in lesions)
    assert found
    assert [one.voxels for one in lesions] == sorted((one.voxels for one in lesions), reverse=True)
    for mine, itk in zip(found, expected, strict=True):
        assert mine == pytest.approx(itk, abs=1e-6)


# --- files -----------------------------------------------------------------------------------------------------------


def test_json_round_trip_says_what_is_in_the_mask(tmp_path: Path) -> None:
    reference, lesion = phantom()
    result = result_of(
        reference, lesion, metadata={"age": 71, "nihss": float("nan"), "site": ["é", "\udcff"]}, warnings=("look here",)
    )
    paths = write_report(result, tmp_path / "out" / "sub-01", {"overlap": 0.5, "input": Path("in"), "deadline": None})
    assert [path.name for path in paths] == [
        f"sub-01_{name}" for name in ("report.json", "lesions.csv", "montage.png", "report.html")
    ]
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    text = paths[0].read_text(encoding="utf-8")
    report = Report.model_validate_json(text)
    assert f"{report.model_dump_json(indent=2)}\n" == text
    raw = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert raw["format"] == 1
    assert raw["metadata"] == {"age": 71, "nihss": None, "site": ["é", "\\udcff"]}
    assert raw["arguments"] == {"overlap": 0.5, "input": "in", "deadline": None}
    assert raw["channels"] == {"t1": None}
    volume = lesion.sum() * 12.0 / 1000
    assert (report.lesion_count, report.volume_ml, report.lesions[0].volume_ml) == pytest.approx((1, volume, volume))
    assert report.labels[1].probability_volume_ml == pytest.approx(0.75 * volume)
    assert report.labels[1].peak_probability == 0.75
    assert report.reference.size_xyz == (50, 60, 30)
    assert (report.run.windows, report.run.skipped_windows, report.run.mirrored_passes) == (6, 2, 2)
    assert report.run.window_size_xyz == (32, 24, 16)
    assert (report.weights.threshold, report.weights.min_component_ml) == (0.35, 0.02)
    assert report.warnings == ("look here",)
    assert report.run.notes == ("deadline: 2 of 8 mirrored passes",)
    assert report.weights.sha256 == "0123456789abcdef" * 4
    assert report.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"segsync", "numpy", "SimpleITK"} <= set(report.versions)


def test_each_label_has_its_own_volume_on_the_models_grid_as_well(tmp_path: Path) -> None:
    """Voxels of 12 mm³ in the mask; the network's are twice as long along each axis, 96 mm³."""
    reference, _ = phantom()
    mask = np.zeros(AXIAL.size_zyx, dtype=np.uint8)
    mask[4, 4, 4:6] = mask[9, 9, 9] = 1
    mask[20, 30, 30:34] = 2
    coarse = replace(AXIAL, size_zyx=(2, 2, 2), spacing_zyx=(6.0, 4.0, 4.0))
    probabilities = np.zeros((2, 2, 2, 2), dtype=np.float32)
    probabilities[:, 0, 0, 0] = 0.5, 0.25
    result = replace(
        result_of(reference, mask, labels={1: "core", 2: "rim"}), model_probabilities=probabilities, model_grid=coarse
    )
    json_path, *_, html_path = write_report(result, tmp_path / "case", {})
    core, rim = Report.model_validate_json(json_path.read_bytes()).labels.values()
    assert (core.lesion_count, core.volume_ml) == pytest.approx((2, 3 * 0.012))
    assert (rim.lesion_count, rim.volume_ml) == pytest.approx((1, 4 * 0.012))
    assert (core.probability_volume_ml, rim.probability_volume_ml) == pytest.approx((0.5 * 0.096, 0.25 * 0.096))
    assert (core.peak_probability, rim.peak_probability) == (0.5, 0.25)
    shown = (
        "0.084 ml total volume 3 lesions 0.048 ml largest lesion 6 mm its largest diameter 0.036 ml core 0.048 ml rim"
    )
    text = "".join(read_page(html_path).text.split())
    assert shown.replace(" ", "") in text
    assert "1rim0.0486.04+14.0+1.0+20.0" in text, "the largest first; its middle x, y, z"
    assert "3core0.0120.01−31.0−41.0−13.0" in text
    # A card and a row for each lesion.
    html = html_path.read_text(encoding="utf-8")
    assert [html.count(f"rgb{colour}") for colour in COLOURS[:2]] == [3, 2]


@pytest.mark.parametrize(
    ("volume_ml", "said"), [(0.0123, "0.012 ml"), (1.234, "1.23 ml"), (38.16, "38.2 ml"), (123.4, "123 ml")]
)
def test_a_volume_is_said_in_three_digits(volume_ml: float, said: str) -> None:
    report = record(result_of(*phantom()), [], {}).model_copy(update={"volume_ml": volume_ml, "lesion_count": 1})
    assert summary(report) == f"{said} in 1 lesion"


def test_csv_has_the_lesions_of_the_json_and_no_formula(tmp_path: Path) -> None:
    reference, _ = phantom()
    mask = np.zeros(AXIAL.size_zyx, dtype=np.uint8)
    mask[10:14, 20:24, 20:24] = 1
    mask[20, 30, 30] = 2
    name = '=HYPERLINK("http://x")'
    result = result_of(reference, mask, labels={1: "core", 2: "@a, b"}, name=name)
    json_path, csv_path, *_ = write_report(result, tmp_path / "case", {})
    report = Report.model_validate_json(json_path.read_bytes())
    with csv_path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [f"'{name}"] * 2
    assert [(int(row["lesion"]), row["label_name"], int(row["voxels"])) for row in rows] == [
        (1, "core", 64),
        (2, "'@a, b", 1),
    ]
    for row, lesion in zip(rows, report.lesions, strict=True):
        assert float(row["volume_ml"]) == pytest.approx(lesion.volume_ml, rel=1e-5)
        assert float(row["largest_diameter_mm"]) == pytest.approx(lesion.largest_diameter_mm, abs=1e-3)
        centroid = [float(row[f"centroid_{axis}_lps_mm"]) for axis in "xyz"]
        assert centroid == pytest.approx(lesion.centroid_lps_mm, abs=1e-3)


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    result = result_of(*phantom())
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file/sub-01_report\.json"):
        write_report(result, tmp_path / "file" / "sub-01", {})
    out = tmp_path / "out"
    (out / "sub-01_montage.png" / "full").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"sub-01_montage\.png"):
        write_report(result, out / "sub-01", {})
    assert [path.name for path in out.iterdir()] == ["sub-01_montage.png"]


# --- picture ---------------------------------------------------------------------------------------------------------


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


# --- page ------------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Collects what a browser would act on, and the text it would show."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read_page(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def test_nothing_hostile_gets_out_of_the_page(tmp_path: Path) -> None:
    reference, lesion = phantom()
    attack = "\"><script>alert(1)</script><img src=http://x onerror='alert(2)'>$style\u202egnp\x00"
    result = result_of(
        reference,
        lesion,
        labels={1: attack},
        name=attack,
        source=Path(f"/data/{attack}\udcff.nii.gz"),
        metadata={attack: [attack]},
        warnings=(attack,),
    )
    *_, html_path = write_report(result, tmp_path / "case", {"input": attack, attack: 1})
    page = read_page(html_path)
    assert {tag for tag, _ in page.tags}.isdisjoint(
        {"script", "iframe", "object", "embed", "link", "base", "form", "a"}
    )
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 1
    assert (images[0]["src"] or "").startswith("data:image/png;base64,")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "\u202e" not in page.text
    assert "\x00" not in page.text
    assert page.text.count("<script>alert(1)</script>") >= 6, "shown as text wherever it was given"


def test_page_says_what_was_found(tmp_path: Path) -> None:
    reference, lesion = phantom()
    result = result_of(reference, lesion, warnings=("channel t1: covers 71% of the patient",))
    *_, html_path = write_report(result, tmp_path / "case", {})
    text = read_page(html_path).text
    for expected in (
        "For research, not for care",
        f"{result.volume_ml:.2f} ml",
        "1 warning",
        "covers 71%",
        "2 of 8 mirrored passes",
        "mean of 2 mirrored passes",
        "0123456789abcdef" * 4,
        "patient's right is on the left",
    ):
        assert expected in text
    assert "No lesion found" not in text


def test_page_without_a_lesion(tmp_path: Path) -> None:
    reference, lesion = phantom()
    result = result_of(reference, np.zeros_like(lesion))
    result = replace(result, model_probabilities=result.model_probabilities + np.float32(0.31))
    json_path, csv_path, png_path, html_path = write_report(result, tmp_path / "case", {})
    assert Report.model_validate_json(json_path.read_bytes()).lesion_count == 0
    assert len(csv_path.read_text(encoding="utf-8").splitlines()) == 1
    assert "No lesion found" in read_page(html_path).text
    assert "31%highest probability anywhere" in read_page(html_path).text
    with Image.open(png_path) as image:
        assert not any(coloured(image.convert("RGB"), colour).any() for colour in COLOURS)


def test_many_lesions_are_summed_up(tmp_path: Path) -> None:
    reference, _ = phantom()
    mask = np.zeros(AXIAL.size_zyx, dtype=np.uint8)
    mask[15, ::4, ::5] = 1  # 150 single voxels of 0.012 ml
    _, csv_path, _, html_path = write_report(result_of(reference, mask), tmp_path / "case", {})
    assert len(csv_path.read_text(encoding="utf-8").splitlines()) == 151
    assert "100 smaller ones, 1.20 ml together, are listed in case_lesions.csv" in read_page(html_path).text


@pytest.mark.parametrize("name", ["scan.tif", "SCAN.TIFF"])
def test_sides_are_not_claimed_for_a_tiff(name: str, tmp_path: Path) -> None:
    reference, lesion = phantom()
    result = result_of(reference, lesion, source=Path(name))
    assert not draw(result, "x").sides
    *_, html_path = write_report(result, tmp_path / "case", {})
    assert "right is not known" in read_page(html_path).text
