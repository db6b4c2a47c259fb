"""`--dicom-seg`: read back by pydicom, the mask's voxels lie on the slices of the source series."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest

import segsync
from builders import Cli, write_image
from dicom_files import classic, enhanced, save
from segsync.dicom_seg import write_segmentation
from segsync.images import read

PLACES = [0.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 25.0]
ARRAY = np.zeros((8, 20, 24), np.uint16)
ARRAY[2:6, 8:13, 9:15] = 1


def predicted(cli: Cli, tmp_path: Path, weights: Path) -> tuple[pydicom.Dataset, npt.NDArray[np.generic]]:
    done = cli(
        "predict", "-i", tmp_path / "t1", "-o", tmp_path / "out" / "m.nii.gz", "--task", "aims-tbi", "--dicom-seg",
        "--weights", weights, "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    return pydicom.dcmread(tmp_path / "out" / "m_seg.dcm"), read(tmp_path / "out" / "m.nii.gz").array


@pytest.mark.parametrize("places", [[3.0 * n for n in range(8)], PLACES], ids=["even", "a step that changes"])
def test_the_object_lies_on_the_source_slices(cli: Cli, tmp_path: Path, weights: Path, places: list[float]) -> None:
    files = classic(ARRAY, places)
    save(tmp_path / "t1", files)
    found, mask = predicted(cli, tmp_path, weights)
    assert mask.any()
    assert found.SOPClassUID.name == "Segmentation Storage"
    assert found.StudyInstanceUID == files[0].StudyInstanceUID
    assert found.FrameOfReferenceUID == files[0].FrameOfReferenceUID
    [series] = found.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == files[0].SeriesInstanceUID
    named = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    assert named == {one.SOPInstanceUID for one in files}
    by_place = {}
    for frame, plane in zip(found.PerFrameFunctionalGroupsSequence, np.atleast_3d(found.pixel_array), strict=True):
        [x, y, z] = map(float, frame.PlanePositionSequence[0].ImagePositionPatient)
        assert (x, y) == (-20.0, -10.0)
        [source] = frame.DerivationImageSequence[0].SourceImageSequence
        [own] = [one for one in files if one.SOPInstanceUID == source.ReferencedSOPInstanceUID]
        assert float(own.ImagePositionPatient[2]) == z
        by_place[z] = plane
    step = min(np.diff(places))
    for z in places:
        expected = mask[round(z / step)]
        assert np.array_equal(by_place.get(z, np.zeros_like(expected)), expected)


def test_the_object_of_a_tilted_gantry_lies_on_the_tilted_slices(tmp_path: Path, weights: Path) -> None:
    """Of the mask, which lies on the upright grid, each slice has the part at its own place."""
    files = classic(ARRAY, [3.0 * n for n in range(8)])
    for number, one in enumerate(files):
        one.ImagePositionPatient = [-20.0, -10.0 + 1.5 * number, 3.0 * number]
    folder = save(tmp_path / "t1", files)
    result = segsync.load("aims-tbi", weights=weights, device="cpu").predict({"t1": folder})
    assert result.mask.shape == (8, 27, 24)
    mask = np.random.default_rng(0).integers(0, 2, result.mask.shape).astype(np.uint8)
    write_segmentation(replace(result, mask=mask), tmp_path / "m_seg.dcm")
    found = pydicom.dcmread(tmp_path / "m_seg.dcm")
    for frame, plane in zip(found.PerFrameFunctionalGroupsSequence, found.pixel_array, strict=True):
        [_, y, z] = map(float, frame.PlanePositionSequence[0].ImagePositionPatient)
        number = round(z / 3)
        assert y == -10.0 + 1.5 * number
        assert np.array_equal(plane, mask[number, number : number + 20])


def test_an_enhanced_series_has_its_object(cli: Cli, tmp_path: Path, weights: Path) -> None:
    save(tmp_path / "t1", [enhanced(ARRAY, [3.0 * n for n in range(8)])])
    found, mask = predicted(cli, tmp_path, weights)
    assert found.pixel_array.sum() == np.count_nonzero(mask) > 0


def test_an_empty_mask_is_an_object_too(tmp_path: Path, weights: Path) -> None:
    folder = save(tmp_path / "t1", classic(ARRAY, [3.0 * n for n in range(8)]))
    result = segsync.load("aims-tbi", weights=weights, device="cpu").predict({"t1": folder})
    write_segmentation(replace(result, mask=np.zeros_like(result.mask)), tmp_path / "empty_seg.dcm")
    found = pydicom.dcmread(tmp_path / "empty_seg.dcm")
    assert found.SOPClassUID.name == "Segmentation Storage"
    assert not found.pixel_array.any()


def test_a_case_that_was_no_dicom_is_told(cli: Cli, tmp_path: Path, weights: Path) -> None:
    write_image(tmp_path / "t1.nii.gz", ARRAY.astype(np.float32))
    done = cli(
        "predict", "-i", tmp_path / "t1.nii.gz", "-o", tmp_path / "m.nii.gz", "--task", "aims-tbi", "--dicom-seg",
        "--weights", weights, "--device", "cpu",
    )  # fmt: skip
    assert done.code == 3
    assert "expected a DICOM series for --dicom-seg, found another image" in done.err
    assert not (tmp_path / "m.nii.gz").exists()
