"""Label maps on their image's grid though a header says it in other words; values that are nearly whole."""

import json
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from segsync.errors import InputError
from segsync.images import read
from segsync_train.data.dataset import on_grid, read_values
from segsync_train.data.validate import validate_folder

AFFINE = np.diag([-1.2, 1.2, 5.0, 1.0])
AFFINE[:3, 3] = [57.3047, -60.7123, -60.2461]
IMAGE = np.random.default_rng(0).normal(100, 9, (40, 36, 12)).astype(np.float32)
LABEL = np.zeros(IMAGE.shape, np.float64)
LABEL[10:14, 20:26, 3:6] = 1
LABEL[20:22, 5:9, 8:10] = 2


def nnunet(folder: Path, label: npt.NDArray[np.generic], affine: npt.NDArray[np.float64]) -> Path:
    """A data set of one case, with this label map."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(IMAGE, AFFINE), folder / "imagesTr/a_0000.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label, affine), folder / "labelsTr/a.nii.gz")
    about = {"channel_names": {"0": "t1"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 1}
    (folder / "dataset.json").write_text(json.dumps({**about, "file_ending": ".nii.gz"}))
    return folder


def test_a_rounded_origin_and_another_order_of_axes_are_the_same_grid(tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[:3, 3] = AFFINE[:3, 3].round(2) + 0.05
    assert validate_folder("nnunet", nnunet(tmp_path / "moved", LABEL, moved)).problems == ()
    turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(LABEL, AFFINE))
    assert not np.array_equal(turned.dataobj, LABEL)
    folder = nnunet(tmp_path / "turned", np.asarray(turned.dataobj), turned.affine)
    assert validate_folder("nnunet", folder).problems == ()
    path, image = folder / "labelsTr/a.nii.gz", folder / "imagesTr/a_0000.nii.gz"
    label = on_grid(path, read_values(path), image, read(image).grid)
    assert np.array_equal(label.array.T, LABEL)
    assert label.grid == read(image).grid


def test_a_label_map_a_voxel_away_is_refused(tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 1.2
    [problem] = validate_folder("nnunet", nnunet(tmp_path / "set", LABEL, moved)).problems
    assert "at a place up to 1.2 mm away" in problem


def test_values_off_by_rounding_are_whole_and_others_are_named(tmp_path: Path) -> None:
    folder = nnunet(tmp_path / "nearly", LABEL * (1 + 1e-7), AFFINE)
    assert validate_folder("nnunet", folder).problems == ()
    assert set(np.unique(read_values(folder / "labelsTr/a.nii.gz").array)) == {0, 1, 2}
    [problem] = validate_folder("nnunet", nnunet(tmp_path / "far", LABEL * 1.25, AFFINE)).problems
    assert "found 1.25, 2.5" in problem


def test_label_voxels_that_are_no_number_are_background(tmp_path: Path) -> None:
    label = np.where(LABEL == 0, np.nan, LABEL)
    folder = nnunet(tmp_path / "set", label, AFFINE)
    assert np.array_equal(read_values(folder / "labelsTr/a.nii.gz").array.T, LABEL)


def test_a_grid_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = nnunet(tmp_path / "set", LABEL[:-1], AFFINE)
    path, image = folder / "labelsTr/a.nii.gz", folder / "imagesTr/a_0000.nii.gz"
    with pytest.raises(InputError, match="expected the grid of a_0000"):
        on_grid(path, read_values(path), image, read(image).grid)
