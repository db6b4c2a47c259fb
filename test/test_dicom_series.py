"""DICOM as hospitals hold it: scaled slice by slice, in one file, tilted, of changing steps, of b-values, cut."""

import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from dicom_files import classic, compressed, dataset, deflated, enhanced, save
from segsync.errors import InputError
from segsync.images import read, read_adc

ARRAY = np.random.default_rng(1).integers(0, 1000, (6, 7, 8)).astype(np.uint16)
PLACES = [5.0 * n for n in range(6)]


# --- values ----------------------------------------------------------------------------------------------------------


def test_every_slice_has_its_own_rescale(tmp_path: Path) -> None:
    """ITK takes the type of the stack from its first slice, and cuts fractions off."""
    slopes = [1.0, 0.0005, 0.25, 1.0, 2.0, 0.001]
    intercepts = [0.0, 0.5, -1024.0, -300.0, 0.0, 0.0]
    volume = read(save(tmp_path / "adc", classic(ARRAY, PLACES, slopes=slopes, intercepts=intercepts)))
    expected = ARRAY * np.array(slopes)[:, None, None] + np.array(intercepts)[:, None, None]
    assert volume.array == pytest.approx(expected, rel=1e-6)
    assert volume.array.min() < -900


def test_a_slope_of_0_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "ct", classic(ARRAY, PLACES, slopes=[1, 1, 0, 1, 1, 1]))
    with pytest.raises(InputError, match=r"002\.dcm: expected a rescale slope other than 0, found 0"):
        read(folder)


def test_bits_beside_the_stored_ones_are_no_values(tmp_path: Path) -> None:
    """Old scanners keep overlays in them."""
    files = classic(ARRAY | np.uint16(0x8000), PLACES)
    for one in files:
        one.BitsStored, one.HighBit = 12, 11
    assert np.array_equal(read(save(tmp_path / "ct", files)).array, ARRAY)


def test_compressed_slices_are_those_that_were_compressed(tmp_path: Path) -> None:
    folder = save(tmp_path / "mr", [compressed(one) for one in classic(ARRAY, PLACES)])
    assert np.array_equal(read(folder).array, ARRAY)


def test_compressed_pixels_that_are_cut_are_one_line(tmp_path: Path) -> None:
    files = [compressed(one) for one in classic(ARRAY, PLACES)]
    files[3].PixelData = files[3].PixelData[:-40] + bytes(40)
    with pytest.raises(InputError, match=r"mr: expected pixels that can be decoded, found a fault \("):
        read(save(tmp_path / "mr", files))


# --- what a folder lacks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [0, 5, 2], ids=["first", "last", "inner"])
@pytest.mark.parametrize("name", ["{}.dcm", "IM{}", "1.2.840.{}"])
def test_a_slice_that_cannot_be_read_is_not_left_out(tmp_path: Path, lost: int, name: str) -> None:
    folder = save(tmp_path / "mr", classic(ARRAY, PLACES))
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / name.format(number))
    (folder / name.format(lost)).write_bytes(b"\0" * 50)
    with pytest.raises(
        InputError, match=r"expected a slice of the series as the 5 files beside it, found 50 bytes without"
    ):
        read(folder)


@pytest.mark.parametrize("lost", [0, 5], ids=["first", "last"])
@pytest.mark.parametrize("last", ["BitsAllocated", "PatientName"], ids=["cut before its pixels", "before its series"])
def test_a_slice_whose_pixels_are_cut_off_is_not_left_out(tmp_path: Path, lost: int, last: str) -> None:
    """Up to there it is a whole DICOM file: nothing but the image is missing."""
    files = classic(ARRAY, PLACES)
    for element in list(files[lost]):
        if element.tag > files[lost][last].tag:
            del files[lost][element.tag]
    with pytest.raises(InputError, match=rf"00{lost}\.dcm: expected a slice of the series as the 5 files beside it"):
        read(save(tmp_path / "mr", files))


def test_notes_beside_the_slices_are_no_slices(tmp_path: Path) -> None:
    folder = save(tmp_path / "mr", classic(ARRAY, PLACES))
    (folder / "README.txt").write_text("of the second visit")
    (folder / ".DS_Store").write_bytes(bytes(4))
    report = dataset(ARRAY[:1])
    del report.PixelData, report.Rows
    report.SeriesInstanceUID = generate_uid()
    report.save_as(folder / "report.dcm")
    assert np.array_equal(read(folder).array, ARRAY)


@pytest.mark.parametrize("element", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_geometry_that_is_not_told_is_not_made_up(tmp_path: Path, element: str) -> None:
    files = classic(ARRAY, PLACES)
    for one in files:
        delattr(one, element)
    with pytest.raises(InputError, match=rf"no {element} of \d numbers"):
        read(save(tmp_path / "mr", files))


def test_axes_that_are_no_directions_are_refused(tmp_path: Path) -> None:
    files = classic(ARRAY, PLACES)
    files[1].ImageOrientationPatient = [1, 0, 0, 0.5, 0.5, 0.7]
    with pytest.raises(
        InputError, match=r"001\.dcm: expected ImageOrientationPatient of two directions at right angle"
    ):
        read(save(tmp_path / "mr", files))


def test_a_mosaic_that_no_longer_says_so_is_wider_than_any_scanner(tmp_path: Path) -> None:
    """Anonymised, its type is gone; 25 slices of 230 mm lie in one picture, and a mask would lie on that."""
    [one] = classic(np.zeros((1, 640, 640), np.uint16), [0.0], pixel=(1.8, 1.8))
    with pytest.raises(InputError, match=r"as wide as a scanner's bore at most, found 1152 × 1152 mm; .* \(a mosaic\)"):
        read(save(tmp_path / "dwi", [one]))


def test_a_single_slice_is_told(tmp_path: Path) -> None:
    volume = read(save(tmp_path / "mr", classic(ARRAY[:1], PLACES[:1])))
    assert volume.array.shape == (1, 7, 8)
    assert "a single slice (8×7×1)" in volume.warnings[0]


def test_a_siemens_mosaic_is_refused(tmp_path: Path) -> None:
    [one] = classic(ARRAY[:1], [0.0])
    one.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    with pytest.raises(InputError, match="found a Siemens mosaic of many; convert the series with dcm2niix"):
        read(save(tmp_path / "dwi", [one]))


def test_links_that_were_not_fetched_are_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "mr", classic(ARRAY, PLACES))
    (folder / "002.dcm").unlink()
    (folder / "002.dcm").symlink_to("../.git/annex/objects/x")
    with pytest.raises(InputError, match=r"002\.dcm: expected a file, found a link to a missing file; fetch it"):
        read(folder)


def test_spacing_between_slices_that_contradicts_the_positions_is_told(tmp_path: Path) -> None:
    files = classic(ARRAY, PLACES)
    for one in files:
        one.SpacingBetweenSlices = 2.5
    volume = read(save(tmp_path / "mr", files))
    assert volume.grid.spacing_zyx == pytest.approx((5.0, 1.5, 1.25))
    assert "says 2.50 mm, the slices' positions 5.00 mm" in volume.warnings[0]


# --- steps -----------------------------------------------------------------------------------------------------------


def test_a_step_that_changes_is_resampled_and_said(tmp_path: Path) -> None:
    """Head CT: thin slices of the base, thick ones above. A field linear in z is the same before and after."""
    places = [0, 2.5, 5, 7.5, 15, 22.5, 30]
    array = np.broadcast_to(np.array(places)[:, None, None] * 10, (7, 4, 5)).astype(np.uint16)
    volume = read(save(tmp_path / "ct", classic(array, places)))
    assert volume.grid.size_zyx == (13, 4, 5)
    assert volume.grid.spacing_zyx == pytest.approx((2.5, 1.5, 1.25))
    assert volume.array[:, 1, 2] == pytest.approx(np.arange(13) * 25.0)
    [warning] = volume.warnings
    assert "the step between slices changes from 2.50 to 7.50 mm: resampled to 2.50 mm" in warning


# --- a tilted gantry -------------------------------------------------------------------------------------------------

HEIGHTS = {"even": [4.0 * n for n in range(6)], "a step that changes": [0.0, 2.0, 4.0, 8.0, 12.0, 16.0]}


def field(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values at places (…, 3) in LPS mm that are linear in all three."""
    values: npt.NDArray[np.float64] = 500 + points @ np.array([6.0, 4.0, 5.0])
    return values


def tilted(heights: list[float], degrees: float) -> list[FileDataset]:
    """Slices of `field` as head CT has them: their normal lies along z, their stack does not."""
    files = classic(np.zeros((len(heights), 20, 16), np.float32).astype(np.uint16), heights)
    for one, z in zip(files, heights, strict=True):
        one.ImagePositionPatient = [-20.0, -10.0 + math.tan(math.radians(degrees)) * z, z]
        j, i = np.indices((20, 16))
        y = float(one.ImagePositionPatient[1])
        places = np.stack([-20 + 1.25 * i, y + 1.5 * j, np.full(i.shape, z)], axis=-1)
        one.PixelData = np.rint(field(places) * 16).astype(np.uint16).tobytes()
        one.RescaleSlope, one.RescaleIntercept = "0.0625", "0"
    return files


@pytest.mark.parametrize("heights", HEIGHTS.values(), ids=HEIGHTS.keys())
@pytest.mark.parametrize("degrees", [20.0, -12.0])
def test_slices_of_a_tilted_gantry_are_brought_upright_and_it_is_said(
    tmp_path: Path, heights: list[float], degrees: float
) -> None:
    """Stacked as they are the head would be sheared; every voxel within a slice shows what lies at its place."""
    volume = read(save(tmp_path / "ct", tilted(heights, degrees)))
    assert f"{math.tan(math.radians(abs(degrees))) * heights[-1]:.0f} mm aside of one another" in volume.warnings[0]
    assert np.allclose(volume.grid.matrix, np.eye(3))
    indices = np.moveaxis(np.indices(volume.array.shape)[::-1], 0, -1)
    places = np.array(volume.grid.origin) + indices * np.array(volume.grid.spacing_xyz)
    z = places[..., 2]
    begin = -10.0 + math.tan(math.radians(degrees)) * z
    within = (places[..., 1] >= begin) & (places[..., 1] <= begin + 19 * 1.5)
    assert within.sum() >= 18 * 16 * len(volume.array)
    if volume.grid.spacing_zyx[0] == 2.0:  # between thick slices both must be there
        within &= np.isin(z, heights)
    assert volume.array[within] == pytest.approx(field(places)[within], abs=0.05)
    assert volume.array[~within & np.isin(z, heights)].max() <= volume.array.max()
    assert volume.array.min() == pytest.approx(min(field(places)[within]), abs=0.1)


def test_a_slice_aside_of_the_others_is_not_taken_as_above_them(tmp_path: Path) -> None:
    """The first and the last lie above one another: a tilt would not show."""
    files = classic(ARRAY, PLACES)
    files[2].ImagePositionPatient = [-20.0 + 2 * 1.25, -10.0, PLACES[2]]
    volume = read(save(tmp_path / "mr", files))
    assert volume.array.shape == (6, 7, 10)
    assert np.array_equal(volume.array[2, :, 2:], ARRAY[2])
    assert np.array_equal(volume.array[1, :, :8], ARRAY[1])


@pytest.mark.parametrize("aside", [[0.0, 0.0, 40.0, 40.0, 0.0, 0.0], [60.0 * n for n in range(6)]])
def test_slices_that_lie_apart_are_refused(tmp_path: Path, aside: list[float]) -> None:
    files = classic(ARRAY, PLACES)
    for one, z, mm in zip(files, PLACES, aside, strict=True):
        one.ImagePositionPatient = [-20.0 + mm, -10.0, z]
    with pytest.raises(InputError, match=r"expected slices above one another, found some .* mm aside"):
        read(save(tmp_path / "mr", files))


# --- one file --------------------------------------------------------------------------------------------------------


def test_a_file_of_many_frames_is_read_by_itself(tmp_path: Path) -> None:
    folder = save(tmp_path / "mr", [enhanced(ARRAY, PLACES)])
    (folder / "notes.dcm").write_bytes(b"none")
    for name in ("000.dcm", "IM1"):
        (folder / "000.dcm").rename(folder / name)
        assert np.array_equal(read(folder / name).array, ARRAY)


def test_a_file_of_one_slice_is_refused_and_told_what_to_give(tmp_path: Path) -> None:
    folder = save(tmp_path / "mr", classic(ARRAY, PLACES))
    with pytest.raises(InputError, match=r"002\.dcm: expected all slices of a series, found one; give the folder"):
        read(folder / "002.dcm")


def test_deflated_slices_are_those_that_were_deflated(tmp_path: Path) -> None:
    folder = save(tmp_path / "mr", [deflated(one) for one in classic(ARRAY, PLACES)])
    assert np.array_equal(read(folder).array, ARRAY)


def test_a_deflated_file_that_swells_or_is_cut_is_one_line(tmp_path: Path) -> None:
    folder = save(tmp_path / "mr", [deflated(one) for one in classic(ARRAY, PLACES)])
    path, bomb = folder / "003.dcm", zlib.compressobj(wbits=-zlib.MAX_WBITS)
    whole = path.read_bytes()
    end = 144 + int.from_bytes(whole[140:144], "little")
    path.write_bytes(whole[:end] + bomb.compress(bytes(1 << 26)) + bomb.flush())
    with pytest.raises(InputError, match=r"003\.dcm: expected a deflated DICOM image, found more than \d+ MiB"):
        read(folder)
    path.write_bytes(whole[:-40])
    with pytest.raises(InputError, match=r"003\.dcm: expected a deflated DICOM image, found its end missing"):
        read(folder)


# --- enhanced --------------------------------------------------------------------------------------------------------


def test_enhanced_multi_frame_is_the_series_of_its_frames(tmp_path: Path) -> None:
    order = [3, 0, 5, 1, 4, 2]
    one = enhanced(ARRAY[order], [PLACES[n] for n in order])
    volume = read(save(tmp_path / "mr", [one]))
    classic_one = read(save(tmp_path / "classic", classic(ARRAY, PLACES)))
    assert np.array_equal(volume.array, ARRAY)
    assert volume.grid == classic_one.grid


def test_frames_without_a_place_are_refused(tmp_path: Path) -> None:
    one = dataset(ARRAY)
    one.NumberOfFrames = len(ARRAY)
    with pytest.raises(InputError, match="found 6 frames without one"):
        read(save(tmp_path / "us", [one]))


def _diffusion(several: bool) -> list[FileDataset]:
    """b = 0, and b = 1000 in two directions, of a tissue of 800·10⁻⁶ mm²/s; in one file or in many."""
    signals = np.concatenate([np.full((6, 7, 8), s) for s in (1000.0, 1000 * np.exp(-0.8), 1000 * np.exp(-0.8))])
    array, bvalues = np.rint(signals).astype(np.uint16), np.repeat([0.0, 1000.0, 1000.0], 6)
    if not several:
        return [enhanced(array, PLACES * 3, bvalues.tolist())]
    files = classic(array, PLACES * 3)
    for one, b in zip(files, bvalues, strict=True):
        one.DiffusionBValue = b
    return files


@pytest.mark.parametrize("several", [False, True], ids=["enhanced", "classic"])
def test_a_series_of_several_bvalues_is_its_trace_and_gives_its_adc(tmp_path: Path, several: bool) -> None:
    folder = save(tmp_path / "dwi", _diffusion(several))
    volume = read(folder)
    assert volume.array == pytest.approx(1000 * np.exp(-0.8), abs=0.51)
    assert "the mean of the 2 of the highest b-value (1000 s/mm²)" in volume.warnings[0]
    adc = read_adc(folder)
    assert adc is not None
    assert adc.array == pytest.approx(800, abs=1.5)
    assert adc.grid == volume.grid


def test_slices_of_two_series_at_one_place_are_refused(tmp_path: Path) -> None:
    files = classic(np.concatenate([ARRAY, ARRAY]), PLACES * 2)
    with pytest.raises(InputError, match="12 slices at 6 places"):
        read(save(tmp_path / "perfusion", files))
    for one in files[6:]:
        one.SeriesInstanceUID = generate_uid()
    with pytest.raises(InputError, match="found 7 series"):
        read(save(tmp_path / "two", files))
