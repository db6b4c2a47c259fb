"""DICOM series: what is whole is read, what is not is refused."""

import locale
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from builders import IDENTITY, close, grid_of, rotated, tissue_of, write_dicom
from segsync.errors import InputError
from segsync.geometry import Volume
from segsync.images import read


@pytest.mark.parametrize("reverse", [False, True], ids=["ascending", "descending"])
def test_dicom_series(tmp_path: Path, reverse: bool) -> None:
    """Slices are ordered by their place in the patient, not by their file names; the geometry is theirs."""
    grid = grid_of((5, 12, 10), (4.0, 1.5, 1.25), (-20.0, 30.0, -5.0), rotated(IDENTITY, (8.0, -5.0, 3.0)))
    array = np.random.default_rng(2).integers(0, 1000, grid.size_zyx).astype(np.int16)
    folder = write_dicom(tmp_path / "dwi", Volume(array, grid))
    if reverse:
        names = sorted(folder.iterdir())
        for number, path in enumerate(names):
            path.rename(folder / f"moved-{len(names) - number:03d}")
    volume = read(folder)
    assert np.array_equal(volume.array, array)
    assert close(volume.grid, grid)


def test_a_folder_with_two_series_or_none_is_refused(tmp_path: Path) -> None:
    grid = grid_of((3, 8, 8))
    first = write_dicom(tmp_path / "two", Volume(tissue_of(grid, 100), grid))
    write_dicom(tmp_path / "other", Volume(tissue_of(grid, 50), grid), series="1.2.826.0.1.3680043.2.1125.9")
    for path in (tmp_path / "other").iterdir():
        path.rename(first / f"second-{path.name}")
    with pytest.raises(InputError, match=r"two: expected the files of one DICOM series, found 2 series"):
        read(first)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"none: .* found no DICOM files"):
        read(tmp_path / "none")


def test_a_dicom_series_that_lacks_a_slice_is_refused(tmp_path: Path) -> None:
    """ITK would take the rest as evenly spaced: everything would lie elsewhere."""
    grid = grid_of((6, 8, 8), (4.0, 1.0, 1.0))
    folder = write_dicom(tmp_path / "dwi", Volume(tissue_of(grid, 100), grid))
    (folder / "002.dcm").unlink()
    with pytest.raises(InputError, match=r"dwi: expected .*even"):
        read(folder)


def test_dicom_slices_all_at_one_place_are_refused(tmp_path: Path) -> None:
    grid = grid_of((5, 8, 8), (5.0, 1.0, 1.0))
    folder = write_dicom(tmp_path / "ct", Volume(tissue_of(grid, 100), grid))
    for path in folder.iterdir():
        rewrite_dicom(sitk.ReadImage(str(path)), path, {"0020|0032": "0\\0\\0"})
    with pytest.raises(InputError, match=r"ct: expected evenly spaced slices, found steps of 0\.00"):
        read(folder)


def rewrite_dicom(image: sitk.Image, path: Path, changes: dict[str, str]) -> None:
    """The same slice with other tags."""
    kept = locale.setlocale(locale.LC_ALL)
    for tag, value in changes.items():
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image)
    locale.setlocale(locale.LC_ALL, kept)
