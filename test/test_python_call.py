"""The Python call, word for word as the README shows it."""

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import segsync
from builders import ball, grid_of, isles22_volumes, write_image
from segsync.geometry import Grid

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
