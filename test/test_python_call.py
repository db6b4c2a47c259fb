"""The Python call, word for word as the README shows it."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import segsync
from builders import ball, grid_of, isles22_volumes, write_image
from segsync.errors import UsageError
from segsync.geometry import Grid, Volume

README = Path(__file__).parents[1] / "README.md"


def python_block() -> str:
    """The one block of Python in the README."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


def test_the_readmes_call_runs(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = grid_of((10, 11, 12))
    lesion = ball(grid, 3.5)
    for name, volume in isles22_volumes(lesion, grid).items():
        write_image(tmp_path / f"{name}.nii.gz", volume.array, grid)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("segsync.predict.WEIGHTS_PLACES", (weights,))  # what the container keeps
    names: dict[str, object] = {}
    exec(compile(python_block(), str(README), "exec"), names)
    result = names["result"]
    assert isinstance(result, segsync.Result)
    assert np.array_equal(result.mask, lesion)
    assert result.probability() == pytest.approx(lesion, abs=1e-5)
    assert result.volume_ml == pytest.approx(lesion.sum() / 1000)
    saved = sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    assert Grid.of(saved).same_as(grid)
    assert np.array_equal(sitk.GetArrayFromImage(saved), lesion)


def test_what_the_package_offers() -> None:
    for name in segsync.__all__:
        assert getattr(segsync, name).__doc__


def test_volumes_of_simpleitk_and_nibabel_are_those_of_the_file(tmp_path: Path) -> None:
    """An oblique, left-handed grid, read by three libraries: positions and values agree."""
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    turn = np.array(sitk.Euler3DTransform((0, 0, 0), 0.2, -0.3, 0.4).GetMatrix()).reshape(3, 3) @ np.diag([1, 1, -1])
    grid = Grid((4, 5, 6), (3.0, 2.0, 1.5), (10.0, -20.0, 30.0), tuple(turn.ravel().tolist()))
    write_image(tmp_path / "image.nii.gz", array, grid)
    for volume in (
        Volume.from_sitk(sitk.ReadImage(str(tmp_path / "image.nii.gz"))),
        Volume.from_nibabel(nibabel.load(tmp_path / "image.nii.gz")),
        Volume.from_sitk(Volume(array, grid).to_sitk()),
    ):
        assert np.array_equal(volume.array, array)
        assert volume.grid.same_as(grid)
    assert Volume(array > 5, grid).to_sitk().GetPixelIDTypeAsString() == "8-bit unsigned integer"


def test_images_that_have_no_grid_are_refused() -> None:
    sheared = np.eye(4)
    sheared[0, 1] = 0.5
    for affine, said in ((sheared, "sheared"), (np.diag([1.0, 0, 1, 1]), "inverted"), (None, "with an affine")):
        with pytest.raises(UsageError, match=said):
            Volume.from_nibabel(SimpleNamespace(affine=affine, dataobj=np.zeros((3, 4, 5), np.float32)))
    with pytest.raises(UsageError, match="three-dimensional"):
        Volume.from_nibabel(nibabel.nifti1.Nifti1Image(np.zeros((3, 4, 5, 6), np.float32), np.eye(4)))
    with pytest.raises(UsageError, match="3 values a voxel"):
        Volume.from_sitk(sitk.Image([3, 4, 5], sitk.sitkVectorUInt8, 3))


@pytest.mark.parametrize(
    "values", [{"tta": "mirrored"}, {"overlap": 1.0}, {"overlap": float("nan")}, {"deadline_s": -1.0}]
)
def test_options_that_mean_nothing_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(values))}: expected"):
        segsync.Settings(**values)


def test_an_array_without_a_grid_is_refused_and_results_are_the_callers_own(weights: Path) -> None:
    model = segsync.load("isles26", weights=weights, device="cpu")
    with pytest.raises(UsageError, match=r"t1: expected a path or a segsync\.Volume, found ndarray"):
        model.predict({"t1": np.zeros((8, 8, 8), np.float32)})  # type: ignore[dict-item]
    grid = grid_of((10, 11, 12))
    result = model.predict({"t1": Volume(ball(grid, 3.5).astype(np.float32), grid)})
    first = result.probability()
    first[:] = 7
    assert result.probability().max() <= 1
    with pytest.raises(UsageError, match="label: expected one of 1, found 2"):
        result.probability(2)
    with pytest.raises(UsageError, match="max_memory"):
        segsync.load("isles26", weights=weights, device="cpu", max_memory=0)
