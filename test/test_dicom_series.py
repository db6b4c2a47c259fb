"""DICOM as hospitals hold it: scaled slice by slice, in one file, of changing steps, of several b-values, cut."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from dicom_files import classic, compressed, dataset, enhanced, save
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
    with pytest.raises(InputError, match=r"expected a slice of the series as the 5 files beside it, found 50 bytes"):
        read(folder)


def test_notes_beside_the_slices_are_no_slices(tmp_path: Path) -> None:
    folder = save(tmp_path / "mr", classic(ARRAY, PLACES))
    (folder / "README.txt").write_text("of the second visit")
    (folder / ".DS_Store").write_bytes(bytes(4))
    assert np.array_equal(read(folder).array, ARRAY)


@pytest.mark.parametrize("element", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_geometry_that_is_not_told_is_not_made_up(tmp_path: Path, element: str) -> None:
    files = classic(ARRAY, PLACES)
    for one in files:
        delattr(one, element)
    with pytest.raises(InputError, match=rf"no {element} of \d numbers"):
        read(save(tmp_path / "mr", files))


def test_a_siemens_mosaic_is_refused(tmp_path: Path) -> None:
    [one] = classic(ARRAY[:1], [0.0])
    one.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    with pytest.raises(InputError, match="found a Siemens mosaic of many; convert the series with dcm2niix"):
        read(save(tmp_path / "dwi", [one]))


def test_links_that_were_not_fetched_are_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "mr", classic(ARRAY, PLACES))
    (folder / "002.dcm").unlink()
    (folder / "002.dcm").symlink_to("../.git/annex/objects/x")
    with pytest.raises(InputError, match=r"002\.dcm: expected a file, found a link to none; fetch it"):
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
