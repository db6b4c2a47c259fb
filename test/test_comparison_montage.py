"""The comparison's pictures of cases: every system's mask where it is, beside the truth."""

from pathlib import Path

import numpy as np
import pytest

from score_folders import setting_of, square, with_masks
from segsync_train.comparison.montage import chosen_cases, montage_figure
from segsync_train.comparison.scores import DICE


def test_masks_are_drawn_where_they_are(tmp_path: Path) -> None:
    setting = setting_of(*with_masks(tmp_path, {"3D-SegSync": 0.9, "3D-UNet": 0.8}))
    figure = montage_figure(setting)
    assert figure is not None
    panels = figure.axes[:4]
    assert [axes.get_title() for axes in panels] == ["image", "truth", "3D-SegSync", "3D-UNet"]
    pictures = [np.asarray(axes.images[0].get_array()) for axes in panels]
    for picture, first in zip(pictures, (None, 3, 4, 5), strict=True):
        coloured = np.ptp(picture, axis=2)[15::30, 15::30] > 25  # the middles of voxels, 30 pixels each
        expected = np.zeros_like(coloured) if first is None else square(first)[2] > 0
        assert np.array_equal(coloured, expected)
    shown = [axes.get_ylabel() for axes in figure.axes[::4]]
    assert shown == list(chosen_cases(setting))
    order = np.argsort(setting.of(DICE).mean(axis=0))
    assert shown == [setting.cases[order[place]] for place in (1, 2, 3)]  # quartiles of five


def test_many_systems_stand_in_several_rows(tmp_path: Path) -> None:
    names = [f"system {number}" for number in range(9)]
    figure = montage_figure(setting_of(*with_masks(tmp_path, dict.fromkeys(names, 0.9)), reference=names[0]))
    assert figure is not None
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["image", "truth", *names, ""] * 3  # two rows of six a case, the last panel empty
    heights = [axes.get_position().y0 for axes in figure.axes[:12]]
    assert min(heights[:6]) > max(heights[6:])


def test_pictures_are_left_out_where_images_are_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = with_masks(tmp_path, {"3D-SegSync": 0.9, "3D-UNet": 0.8})
    for path in tmp_path.glob("*-label.nii.gz"):
        path.unlink()
    assert montage_figure(setting_of(*folders)) is None
    assert "no pictures of mmwhs-ct: " in caplog.text
