"""Lesions one by one: volume, place and largest diameter, by hand, by a search of all pairs, and as ITK has them."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segmented import ONE_LABEL
from segsync.geometry import Grid
from segsync.lesions import largest_distance, measure


def oblique(size_zyx: tuple[int, int, int]) -> Grid:
    """A grid rotated by 30° about x and 20° about z, with three spacings."""
    a, b = np.deg2rad([30.0, 20.0])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return Grid(size_zyx, (4.8, 1.8, 0.9), (12.0, -30.0, 7.5), tuple((about_z @ about_x).ravel().tolist()))


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
