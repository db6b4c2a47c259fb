"""Metrics against values derived by hand, against the three challenges' rules, and against second libraries."""

import math

import grand_challenge_metrics.stats as judge
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segsync.arrays import Mask, Triple
from segsync_train.evaluation.metrics import RULES, Rules, Scores, score

ISLES22 = RULES["isles22"]
UNIT = (1.0, 1.0, 1.0)
#: Thick slices: Z, Y, X in mm.
THICK = (5.0, 2.0, 1.0)


def box(shape: tuple[int, int, int], first: tuple[int, int, int], size: tuple[int, int, int]) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))] = True
    return mask


def empty(shape: tuple[int, int, int] = (6, 6, 6)) -> Mask:
    return np.zeros(shape, dtype=bool)


def blobs(seed: int, shape: tuple[int, int, int] = (16, 18, 20)) -> tuple[Mask, Mask]:
    """Two masks of some twenty lesions each, that have something in common."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 1.2)
    other = smooth + 0.8 * ndimage.gaussian_filter(rng.standard_normal(shape), 1.2)
    return smooth > np.quantile(smooth, 0.93), other > np.quantile(other, 0.94)


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_two_single_voxels_are_as_far_apart_as_their_centres() -> None:
    """(1, 2, 3) and (3, 5, 7) on 5×2×1 mm: √(10² + 6² + 4²) = √152 mm."""
    a, b = box((8, 8, 8), (1, 2, 3), (1, 1, 1)), box((8, 8, 8), (3, 5, 7), (1, 1, 1))
    found = score(a, b, THICK, ISLES22)
    assert (found.hd_mm, found.hd95_mm, found.assd_mm) == pytest.approx((math.sqrt(152),) * 3)
    assert (found.dice, found.volume_difference_ml) == (0, 0)


@pytest.mark.parametrize(("axis", "mm"), [(0, 10.0), (1, 4.0), (2, 2.0)])
def test_a_plate_moved_by_two_voxels_is_everywhere_that_far(axis: int, mm: float) -> None:
    first, moved, size = [2, 2, 2], [2, 2, 2], [4, 4, 4]
    size[axis], moved[axis] = 1, 4
    a, b = (box((9, 9, 9), tuple(at), tuple(size)) for at in (first, moved))  # type: ignore[arg-type]
    found = score(a, b, THICK, ISLES22)
    assert (found.hd_mm, found.hd95_mm, found.assd_mm) == pytest.approx((mm, mm, mm))


def test_a_longer_bar_by_hand() -> None:
    """One voxel wide, along X: 10 voxels against 14 that begin at the same place, 1 mm apart.

    The shorter lies in the longer, so its ten distances are 0; the longer's last four are 1, 2, 3 and 4 mm. HD = 4,
    ASSD = 10/24; the 95th percentile of (0 ×10, 1, 2, 3, 4) is at place 0.95·13 = 12.35: 3 + 0.35.
    Dice = 2·10/24; 5·2·1 mm³ a voxel: 0.1 and 0.14 ml.
    """
    a, b = box((3, 3, 16), (1, 1, 1), (1, 1, 10)), box((3, 3, 16), (1, 1, 1), (1, 1, 14))
    found = score(a, b, THICK, ISLES22)
    assert (found.hd_mm, found.hd95_mm, found.assd_mm) == pytest.approx((4, 3.35, 10 / 24))
    assert found.dice == pytest.approx(20 / 24)
    assert (found.volume_ml, found.predicted_ml, found.volume_difference_ml) == pytest.approx((0.1, 0.14, 0.04))
    assert found.relative_volume_difference == pytest.approx(0.4)


def test_the_surface_of_a_mask_that_touches_the_border_is_there_too() -> None:
    """A full image of 3³ against its middle voxel: without the border it would have no surface at all."""
    found = score(np.ones((3, 3, 3), dtype=bool), box((3, 3, 3), (1, 1, 1), (1, 1, 1)), UNIT, ISLES22)
    distances = [math.sqrt(steps) for steps, voxels in ((1, 6), (2, 12), (3, 8)) for _ in range(voxels)]
    assert found.hd_mm == pytest.approx(math.sqrt(3))
    assert found.assd_mm == pytest.approx((sum(distances) + 1) / 27)


# --- lesions, by each challenge's rules ------------------------------------------------------------------------------


def three_lesions() -> tuple[Mask, Mask]:
    """Reference: bars of 8, 8 and 2 voxels. Prediction: one voxel of the first, all of the second, one elsewhere."""
    shape = (5, 12, 14)
    reference = box(shape, (1, 1, 1), (1, 1, 8)) | box(shape, (1, 5, 1), (1, 1, 8)) | box(shape, (1, 9, 1), (1, 1, 2))
    predicted = box(shape, (1, 1, 8), (1, 1, 3)) | box(shape, (1, 5, 1), (1, 1, 8)) | box(shape, (3, 9, 6), (1, 1, 4))
    return reference, predicted


def test_isles22_counts_a_lesion_as_found_where_one_voxel_meets_it() -> None:
    """2 found, 1 missed, 1 false: F1 = 4/(4 + 1 + 1)."""
    found = score(*three_lesions(), UNIT, ISLES22)
    assert (found.lesions, found.predicted_lesions, found.lesion_count_difference) == (3, 3, 0)
    assert found.lesion_f1 == pytest.approx(4 / 6)


def test_isles24_wants_a_fifth_of_the_union() -> None:
    """The first lesion shares 1 voxel of a union of 10, below 0.2: 1 found, 2 missed, 2 false; F1 = 2/(2 + 2 + 2)."""
    assert score(*three_lesions(), UNIT, RULES["isles24"]).lesion_f1 == pytest.approx(2 / 6)


def test_isles24_takes_a_union_of_exactly_a_fifth_and_each_lesion_once() -> None:
    """A lesion of 5 voxels meets two predictions of one voxel: 1/5 each, the second is false; F1 = 2/(2 + 1)."""
    reference = box((3, 3, 9), (1, 1, 1), (1, 1, 5))
    predicted = box((3, 3, 9), (1, 1, 1), (1, 1, 1)) | box((3, 3, 9), (1, 1, 4), (1, 1, 1))
    assert score(reference, predicted, UNIT, RULES["isles24"]).lesion_f1 == pytest.approx(2 / 3)
    assert score(reference, predicted, UNIT, ISLES22).lesion_f1 == 1


def test_isles24_takes_the_best_pair_first() -> None:
    """A prediction of 10 voxels shares 5/13 with one lesion and 3/10 with another; the first lesion shares 2/8 with a
    second prediction. Its best pair leaves nothing to the others: 1 of 2 found, 1 of 2 false.
    """
    shape = (3, 3, 13)
    reference = box(shape, (1, 1, 0), (1, 1, 8)) | box(shape, (1, 1, 10), (1, 1, 3))
    predicted = box(shape, (1, 1, 0), (1, 1, 2)) | box(shape, (1, 1, 3), (1, 1, 10))
    assert score(reference, predicted, UNIT, RULES["isles24"]).lesion_f1 == pytest.approx(2 / 4)


def test_voxels_that_meet_at_a_corner_are_one_lesion_but_two_in_atlas() -> None:
    corner = box((4, 4, 4), (1, 1, 1), (1, 1, 1)) | box((4, 4, 4), (2, 2, 2), (1, 1, 1))
    assert score(corner, corner, UNIT, ISLES22).lesions == 1
    assert score(corner, corner, UNIT, RULES["atlas"]).lesions == 2


def test_aims_tbi_passes_over_lesions_of_fifty_voxels_and_no_more() -> None:
    shape = (10, 12, 30)
    small, large = box(shape, (1, 1, 1), (2, 5, 5)), box(shape, (5, 1, 1), (1, 3, 17))
    assert (small.sum(), large.sum()) == (50, 51)
    found = score(large, small | large, UNIT, RULES["aims-tbi"])
    assert (found.dice, found.hd_mm, found.predicted_lesions) == (1, 0, 1)
    assert found.predicted_ml == pytest.approx(0.051)
    gone = score(small, empty(shape), UNIT, RULES["aims-tbi"])
    assert (gone.dice, gone.lesions, gone.volume_ml) == (1, 0, 0)


def test_which_of_several_small_lesions_is_removed_makes_no_difference_to_the_others() -> None:
    """Numbers close up after a removal: a small one before, between and after two large ones."""
    shape = (3, 3, 240)
    bars = [(0, 20), (22, 60), (84, 10), (96, 70), (168, 50)]
    mask = np.zeros(shape, dtype=bool)
    for first, length in bars:
        mask[1, 1, first : first + length] = True
    found = score(mask, mask, UNIT, RULES["aims-tbi"])
    assert (found.lesions, found.lesion_f1) == (2, 1)
    assert found.volume_ml == pytest.approx(0.13)


@pytest.mark.parametrize("rules", RULES.values(), ids=lambda rules: rules.name)
def test_empty_masks_by_every_challenge(rules: Rules) -> None:
    """Nothing there and nothing found is right; else Dice and F1 are 0; distances to nothing are not defined."""
    lesion, nothing = box((6, 6, 6), (1, 1, 1), (4, 4, 4)), empty()
    both = score(nothing, nothing, UNIT, rules)
    missed, false = score(lesion, nothing, UNIT, rules), score(nothing, lesion, UNIT, rules)
    assert (both.dice, both.lesion_f1, both.volume_difference_ml, both.relative_volume_difference) == (1, 1, 0, 0)
    for one in (missed, false):
        assert (one.dice, one.lesion_f1, one.lesion_count_difference) == (0, 0, 1)
        assert one.volume_difference_ml == pytest.approx(0.064)
    for one in (both, missed, false):
        assert all(math.isnan(mm) for mm in (one.hd_mm, one.hd95_mm, one.assd_mm))
    assert missed.relative_volume_difference == 1
    assert math.isnan(false.relative_volume_difference)


# --- second libraries ------------------------------------------------------------------------------------------------

#: Seed of `blobs`: what panoptica 2.1.7 finds with connected components and NaiveThresholdMatching(0.2):
#: lesions, predicted lesions, matched pairs, Dice.
PANOPTICA = {
    0: (22, 30, 13, 0.394666667),
    1: (20, 28, 14, 0.501333333),
    2: (21, 25, 11, 0.520000000),
    3: (25, 25, 11, 0.498666667),
    4: (21, 26, 10, 0.517333333),
    5: (18, 21, 7, 0.456000000),
    6: (22, 19, 14, 0.544000000),
    7: (23, 22, 11, 0.554666667),
}


@pytest.mark.parametrize(("seed", "expected"), PANOPTICA.items())
def test_isles24_as_panoptica_has_it(seed: int, expected: tuple[int, int, int, float]) -> None:
    lesions, predicted, pairs, dice = expected
    found = score(*blobs(seed), UNIT, RULES["isles24"])
    assert (found.lesions, found.predicted_lesions) == (lesions, predicted)
    assert found.dice == pytest.approx(dice)
    assert found.lesion_f1 == pytest.approx(2 * pairs / (lesions + predicted))


@pytest.mark.parametrize("spacing", [UNIT, THICK, (0.8, 1.7, 3.1)])
@pytest.mark.parametrize("seed", range(3))
def test_distances_as_grand_challenge_metrics_has_them(seed: int, spacing: Triple) -> None:
    reference, predicted = blobs(seed)
    found = score(reference, predicted, spacing, ISLES22)
    expected = judge.hausdorff_distance_measures(reference, predicted, voxelspacing=spacing)
    assert found.hd_mm == pytest.approx(expected.distance)
    # It takes the place below the percentile, we what lies between two places.
    above = judge.percentile_hausdorff_distance(reference, predicted, 0.96, voxelspacing=spacing)
    assert expected.percentile_distance - 1e-5 <= found.hd95_mm <= above + 1e-5
    assert found.volume_difference_ml * 1000 == pytest.approx(
        judge.absolute_volume_difference(reference, predicted, voxelspacing=spacing)
    )
    matrix = judge.calculate_confusion_matrix(reference, predicted, [0, 1])
    assert found.dice == pytest.approx(judge.dice_from_confusion_matrix(matrix)[1])


@pytest.mark.parametrize("seed", range(3))
def test_overlap_and_lesions_as_simpleitk_has_them(seed: int) -> None:
    reference, predicted = blobs(seed)
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (reference, predicted)]
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*images)
    distance = sitk.HausdorffDistanceImageFilter()
    distance.Execute(*images)
    found = score(reference, predicted, UNIT, ISLES22)
    assert found.dice == pytest.approx(overlap.GetDiceCoefficient())
    assert found.hd_mm == pytest.approx(distance.GetHausdorffDistance())
    counts = [
        int(sitk.GetArrayFromImage(sitk.ConnectedComponent(image, fully)).max())
        for image in images
        for fully in (True, False)
    ]
    atlas = score(reference, predicted, UNIT, RULES["atlas"])
    assert [found.lesions, atlas.lesions, found.predicted_lesions, atlas.predicted_lesions] == counts


# --- properties ------------------------------------------------------------------------------------------------------


def symmetric(scores: Scores) -> tuple[float, ...]:
    return scores.dice, scores.hd_mm, scores.hd95_mm, scores.assd_mm, scores.volume_difference_ml


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.permutations((0, 1, 2)))
def test_the_order_of_masks_and_of_axes_makes_no_difference(seed: int, axes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.random((5, 6, 7)) < 0.2 for _ in range(2))
    a[2, 3, 3] = b[1, 2, 3] = True
    spacing = (1.5, 0.7, 3.0)
    there, back = score(a, b, spacing, ISLES22), score(b, a, spacing, ISLES22)
    assert symmetric(there) == pytest.approx(symmetric(back))
    z, y, x = (spacing[axis] for axis in axes)
    rotated = score(a.transpose(axes), b.transpose(axes), (z, y, x), ISLES22)
    assert symmetric(rotated) == pytest.approx(symmetric(there))
    assert rotated.lesion_f1 == pytest.approx(there.lesion_f1)


@pytest.mark.parametrize("rules", RULES.values(), ids=lambda rules: rules.name)
def test_empty_space_around_the_masks_makes_no_difference(rules: Rules) -> None:
    reference, predicted = blobs(5)
    wider = [np.pad(mask, ((1, 2), (3, 1), (0, 4))) for mask in (reference, predicted)]
    assert score(wider[0], wider[1], THICK, rules) == score(reference, predicted, THICK, rules)


def test_masks_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one grid"):
        score(empty((4, 4, 4)), empty((4, 4, 5)), UNIT, ISLES22)
