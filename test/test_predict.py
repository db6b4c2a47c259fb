"""The whole way of a case, with networks whose answer is known."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

import segsync
from builders import (
    AS_IT_IS,
    IDENTITY,
    ball,
    dice,
    greedy,
    grid_of,
    isles22_volumes,
    itk_image,
    orientations,
    rotated,
    tissue_of,
    two_labels,
    write_bundle,
    write_image,
)
from segsync.arrays import Array
from segsync.bundle import ChannelSpec
from segsync.errors import InputError, ResourceError
from segsync.geometry import Grid, Volume
from segsync.memory import Footprint
from segsync.postprocess import components_of, labels_on, remove_components
from segsync.predict import Settings
from segsync.preprocess import Prepared, prepare
from segsync.sliding_window import InferenceStatistics, predict

OBLIQUE = (9.0, -6.0, 11.0)


@pytest.fixture(scope="module")
def t1(weights: Path) -> segsync.Model:
    return segsync.load("aims-tbi", weights=weights, device="cpu")


@pytest.fixture(scope="module")
def isles22(weights: Path) -> segsync.Model:
    return segsync.load("isles22", weights=weights, device="cpu")


# --- the mask comes back where it was --------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", orientations())
def test_a_network_that_copies_returns_the_mask_in_all_48_orientations(
    t1: segsync.Model, direction: tuple[float, ...]
) -> None:
    """Through windows and mirroring, at the model's spacing: the very voxels, on the very grid."""
    grid = grid_of((11, 18, 25), (1.0, 1.0, 1.0), (31.0, -4.5, 120.25), rotated(direction, OBLIQUE))
    lesion = ball(grid, 4.0, (1.0, 2.0, -1.0))
    lesion[2, 3, 4] = lesion[10, 17, 24] = 1
    result = t1.predict({"t1": Volume(lesion, grid)}, Settings(tta="mirror"))
    assert np.array_equal(result.mask, lesion)
    assert result.mask.dtype == np.uint8
    assert result.grid == grid
    assert result.probability() == pytest.approx(lesion, abs=1e-5)
    assert result.volume_ml == pytest.approx(lesion.sum() / 1000)


@pytest.mark.parametrize(
    ("size", "spacing"),
    [
        ((40, 44, 48), (0.5, 0.6, 0.7)),
        ((9, 27, 31), (4.8, 1.8, 1.8)),
        ((1, 40, 40), (5.0, 1.0, 1.0)),
        ((3, 4, 5), (9.0, 9.0, 9.0)),
    ],
    ids=["fine", "thick slices", "one slice", "tiny"],
)
def test_other_spacings_come_back_too(
    t1: segsync.Model, size: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    grid = grid_of(size, spacing, direction=rotated(orientations()[17], OBLIQUE))
    lesion = ball(grid, 9.0)
    result = t1.predict({"t1": Volume(lesion, grid)})
    assert result.mask.shape == size
    assert result.grid == grid
    assert dice(result.mask, lesion) > 0.95


def test_the_saved_mask_lies_on_the_reference_grid(t1: segsync.Model, tmp_path: Path) -> None:
    grid = grid_of((8, 9, 10), (2.0, 0.7, 1.3), (31.125, -4.5, 120.25), rotated(IDENTITY, (21.0, -30.0, 44.0)))
    path = write_image(tmp_path / "t1.mha", ball(grid, 4.0), grid)
    t1.predict({"t1": path}).save(tmp_path / "mask.mha")
    reference, mask = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / "mask.mha"))
    assert mask.GetPixelID() == sitk.sitkUInt8
    for read in (sitk.Image.GetSize, sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
        assert read(mask) == read(reference)


def test_the_sample_lies_on_its_own_oblique_grid(isles22: segsync.Model, tmp_path: Path) -> None:
    """The bundled patient: FLAIR on another, oblique grid; the mask on DWI's, to the last digit."""
    folder = Path(__file__).parent / "input" / "images"
    images = {name: next((folder / f"{name}-brain-mri").glob("*.mha")) for name in ("dwi", "adc", "flair")}
    dwi = sitk.ReadImage(str(images["dwi"]))
    assert not Grid.of(dwi).same_as(Grid.of(sitk.ReadImage(str(images["flair"]))))
    result = isles22.predict(images)
    result.save(tmp_path / "mask.mha")
    mask = sitk.ReadImage(str(tmp_path / "mask.mha"))
    assert Grid.of(mask) == Grid.of(dwi)
    assert not [line for line in result.warnings if "exchanged" in line or "covers" in line]


# --- labels ----------------------------------------------------------------------------------------------------------


def test_two_labels_and_small_components(tmp_path: Path) -> None:
    """The likelier label wins where either is above the threshold; what is too small goes, and the report says so."""
    channels = tuple(ChannelSpec(name=name, normalisation=AS_IT_IS) for name in ("ncct", "tmax"))
    folder = write_bundle(
        tmp_path / "isles24", "isles24", model=two_labels(), channels=channels, labels={1: "rim", 3: "core"},
        min_component_ml=0.005, min_component_confidence=0.5, threshold=0.6,
    )  # fmt: skip
    grid = grid_of((16, 16, 16))
    rim, core = np.zeros((2, *grid.size_zyx), dtype=np.float32)
    rim[4:10, 4:10, 4:10] = 0.35
    core[4:10, 4:10, 4:10] = 0.3  # 0.65 together: above the threshold, and rim is likelier
    core[6:8, 6:8, 6:8] = 0.6
    core[13, 13, 12:14] = 1.0  # two voxels of 1 mm³: too small
    rim[13, 13, 12:14] = 0.01  # and tissue, or the window would be skipped
    rim[0, 0, 0] = 0.59  # below the threshold
    model = segsync.load("isles24", weights=folder, device="cpu")
    result = model.predict({"ncct": Volume(rim, grid), "tmax": Volume(core, grid)})
    expected = np.zeros(grid.size_zyx, dtype=np.uint8)
    expected[4:10, 4:10, 4:10] = 1
    expected[6:8, 6:8, 6:8] = 3
    assert np.array_equal(result.mask, expected)
    assert result.statistics.notes == ["1 components below 0.005 ml or a highest probability of 0.5 removed"]
    assert result.probability(3)[7, 7, 7] == pytest.approx(0.6)


def test_components_touch_by_corners() -> None:
    mask = np.zeros((6, 6, 6), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[4, 4, 4] = True
    components, count = components_of(mask)
    assert count == 2
    assert components[0, 0, 0] == components[1, 1, 1] != components[4, 4, 4]


def test_the_smallest_component_is_measured_on_the_reference_grid() -> None:
    grid = grid_of((6, 6, 6), (2.0, 1.0, 1.0))  # 2 mm³ a voxel
    mask = np.zeros(grid.size_zyx, dtype=np.uint8)
    mask[0, 0, :3] = 1
    large = mask.copy()
    mask[4, 4, :2] = 1
    mask[4, 1, :2] = 2
    sure = np.ones(grid.size_zyx, dtype=np.float32)
    kept, removed = remove_components(mask.copy(), sure, grid, 0.006, 0.0)
    assert np.array_equal(kept, large)
    assert removed == 2
    assert np.array_equal(remove_components(mask.copy(), sure, grid, 0.0, 0.0)[0], mask)


def test_a_component_goes_whose_probability_nowhere_reaches_the_least() -> None:
    """One voxel decides: a large component without it goes, a voxel by itself that has it stays."""
    grid = grid_of((6, 6, 6))
    probability = np.zeros(grid.size_zyx, dtype=np.float32)
    probability[1, 1:4, 1:4], probability[4, 1:4, 1:4], probability[4, 4, 5] = 0.6, 0.6, 0.9
    probability[4, 2, 2] = 0.8
    mask = (probability > 0).astype(np.uint8)
    mask[4, 4, 5] = 2  # touches the second component, but is of another label
    kept, removed = remove_components(mask.copy(), probability, grid, 0.0, 0.8)
    assert (removed, int(kept[1].sum()), int(kept[4].astype(bool).sum())) == (1, 0, 10)
    kept, removed = remove_components(mask.copy(), probability, grid, 0.002, 0.85)
    assert (removed, int(kept.sum())) == (3, 0)


def test_the_threshold_is_reached_not_passed(t1: segsync.Model) -> None:
    grid = grid_of((4, 4, 4))
    probabilities = np.full((1, 4, 4, 4), 0.5, dtype=np.float32)
    assert labels_on(probabilities, grid, grid, t1.bundle.spec)[0].all()
    assert not labels_on(np.nextafter(probabilities, np.float32(0)), grid, grid, t1.bundle.spec)[0].any()


# --- what is asked for -----------------------------------------------------------------------------------------------


def test_windows_mirroring_and_warnings_are_recorded(isles22: segsync.Model) -> None:
    grid = grid_of((20, 20, 20))
    volumes = isles22_volumes(ball(grid, 8.0), grid)
    volumes["adc"] = Volume(volumes["adc"].array.astype(np.float32) / 1000, grid)
    plain = isles22.predict(volumes, Settings(tta="none", overlap=0.25))
    mirrored = isles22.predict(volumes, Settings(tta="mirror"))
    assert (plain.statistics.flips, plain.statistics.overlap, mirrored.statistics.flips) == (1, 0.25, 2)
    assert plain.warnings == ("channel adc: given in 10⁻³ mm²/s, brought to 10⁻⁶ mm²/s",)
    assert np.array_equal(plain.mask, mirrored.mask)
    assert isles22.predict(volumes).statistics.flips == 2  # auto, on a CPU as on a GPU
    assert set(plain.seconds) == {"read and prepare", "network", "put back", "total"}


def test_a_deadline_gone_by_gives_mirroring_up(isles22: segsync.Model) -> None:
    grid = grid_of((20, 20, 20))
    lesion = ball(grid, 8.0)
    result = isles22.predict(isles22_volumes(lesion, grid), Settings(tta="mirror", deadline_s=0.0))
    assert (result.statistics.flips, result.statistics.overlap) == (1, 0.0)
    assert result.statistics.notes == ["deadline: windows overlap by 0% instead of 50%, no mirroring"]
    assert np.array_equal(result.mask, lesion)


def test_reading_and_putting_back_count_for_the_deadline(t1: segsync.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 s 30 went by while images were read, and 30 are kept for the way back: until 70 the network may run."""
    now, deadlines = [0.0], []

    def slowly(*arguments: Any) -> Prepared:
        now[0] += 30
        return prepare(*arguments)

    def noted(*arguments: Any, deadline: float | None, **others: Any) -> tuple[Array, InferenceStatistics]:
        deadlines.append(deadline)
        return predict(*arguments, **others)

    monkeypatch.setattr("segsync.pipeline.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("segsync.pipeline.prepare", slowly)
    monkeypatch.setattr("segsync.pipeline.predict", noted)
    grid = grid_of((8, 8, 8))
    t1.predict({"t1": Volume(ball(grid, 3.0), grid)}, Settings(deadline_s=100.0))
    assert deadlines == [70.0]


def test_a_missing_optional_channel_is_said(isles22: segsync.Model) -> None:
    grid = grid_of((12, 12, 12))
    volumes = isles22_volumes(ball(grid, 4.0), grid)
    del volumes["flair"]
    result = isles22.predict(volumes)
    assert result.warnings == ("channel flair: no image; the model goes on without it",)
    assert np.array_equal(result.mask, ball(grid, 4.0))


def test_an_image_without_tissue_is_refused(t1: segsync.Model) -> None:
    """An empty mask would say that somebody looked."""
    grid = grid_of((8, 8, 8))
    array = np.full(grid.size_zyx, -3, dtype=np.int16)
    array[0] = -2
    with pytest.raises(InputError, match="case case: channel t1: expected the patient, found nothing that is tissue"):
        t1.predict({"t1": Volume(array, grid)})


def test_memory_that_ends_halves_the_windows(tmp_path: Path) -> None:
    """A network that asks for 256 TiB above 512 voxels: ONNX Runtime fails, smaller windows do not, and it is said."""
    folder = write_bundle(tmp_path / "aims-tbi", "aims-tbi", model=greedy(1, most_voxels=8**3))
    grid = grid_of((20, 20, 20))
    lesion = ball(grid, 8.0)
    result = segsync.load("aims-tbi", weights=folder, device="cpu").predict({"t1": Volume(lesion, grid)})
    assert np.array_equal(result.mask, lesion)
    assert result.statistics.notes == ["out of memory with windows of 16×16×16; went on with 8×8×8"]


def test_memory_that_ends_for_good_is_said(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "aims-tbi", "aims-tbi", model=greedy(1, most_voxels=1))
    grid = grid_of((20, 20, 20))
    model = segsync.load("aims-tbi", weights=folder, device="cpu")
    with pytest.raises(ResourceError, match=r"memory for one window of 8×8×8 voxels"):
        model.predict({"t1": Volume(ball(grid, 8.0), grid)})


def test_images_that_do_not_fit_into_memory_are_a_resource_error(
    t1: segsync.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("segsync.pipeline.prepare", full)
    with pytest.raises(ResourceError, match="give the container more memory"):
        t1.predict({"t1": Volume(tissue_of(grid_of((4, 4, 4)), 1), grid_of((4, 4, 4)))})


def test_a_memory_limit_makes_windows_smaller(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what a window takes given: 1 MB and 100 bytes a voxel, of which 8³ fit below 1.3 MB beside the images."""
    monkeypatch.setattr(Footprint, "measure", lambda run, probe: Footprint(1_000_000, 100.0))
    monkeypatch.setattr("segsync.memory.resident_bytes", lambda: 1_000_000 + 100 * 8**3)
    grid = grid_of((20, 20, 20))
    lesion = ball(grid, 8.0)
    model = segsync.load("aims-tbi", weights=weights, device="cpu", max_memory=1_300_000)
    result = model.predict({"t1": Volume(lesion, grid)}, Settings())
    assert result.statistics.patch_zyx == (8, 8, 8)
    assert np.array_equal(result.mask, lesion)


# --- what is refused -------------------------------------------------------------------------------------------------


def no_reference(volumes: dict[str, Volume]) -> None:
    del volumes["dwi"]


def no_adc(volumes: dict[str, Volume]) -> None:
    del volumes["adc"]


def empty_adc(volumes: dict[str, Volume]) -> None:
    volumes["adc"] = Volume(np.zeros((12, 12, 12), dtype=np.int16), grid_of((12, 12, 12)))


def unknown_channel(volumes: dict[str, Volume]) -> None:
    volumes["swi"] = volumes["adc"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_reference, "case case: channel dwi: no image"),
        (no_adc, "case case: channel adc: no image; give the patient's image"),
        (empty_adc, "case case: channel adc: the image holds only the value 0"),
        (unknown_channel, r"expected a channel of the task isles22 \(dwi, adc, flair\), found 'swi'"),
    ],
)
def test_a_case_that_is_not_whole(
    isles22: segsync.Model, spoil: Callable[[dict[str, Volume]], None], said: str
) -> None:
    volumes = isles22_volumes(ball(grid_of((12, 12, 12)), 4.0), grid_of((12, 12, 12)))
    spoil(volumes)
    with pytest.raises(InputError, match=said):
        isles22.predict(volumes)


def test_a_file_in_the_wrong_place_is_named(isles22: segsync.Model, tmp_path: Path) -> None:
    grid = grid_of((12, 12, 12))
    volumes = isles22_volumes(ball(grid, 4.0), grid)
    far = tmp_path / "adc.mha"
    image = itk_image(volumes["adc"].array, grid)
    image.SetOrigin((900.0, 0.0, 0.0))
    sitk.WriteImage(image, str(far))
    with pytest.raises(InputError) as error:
        isles22.predict({"dwi": volumes["dwi"], "adc": far})
    assert str(error.value).startswith(f"{far}: channel adc: expected the region that the reference image shows")


def test_no_model_of_that_name(weights: Path) -> None:
    with pytest.raises(InputError, match=r"expected one of isles22, isles24, aims-tbi, isles26, found 'isles23'"):
        segsync.load("isles23", weights=weights)


def test_a_model_is_loaded_once_for_any_number_of_cases(t1: segsync.Model) -> None:
    for side in (5, 9, 17):
        grid = grid_of((side, side, side))
        assert np.array_equal(t1.predict({"t1": Volume(ball(grid, side / 3), grid)}).mask, ball(grid, side / 3))
