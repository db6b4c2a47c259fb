"""What ISLES'26 counts, and how leaderboards rank: values derived by hand, and panoptica's."""

from pathlib import Path

import numpy as np
import pytest

from builders import grid_of, write_image
from score_folders import CASES, write_scores
from segsync.arrays import Array, Mask
from segsync.errors import InputError
from segsync_train.comparison.compare import compare
from segsync_train.evaluation.evaluate import evaluate
from segsync_train.evaluation.leaderboard import case_ranks
from segsync_train.evaluation.metrics import RULES, precision_recall_area, score
from test_metrics import UNIT, blobs, box

ISLES26 = RULES["isles26"]
GRID = grid_of((8, 16, 16), (3.0, 1.0, 1.0))

#: Seed of `blobs`: what panoptica 2.1.7 finds with connected components and NaiveThresholdMatching(0.25):
#: lesions, predicted lesions, matched pairs, recognition quality.
PANOPTICA = {
    0: (22, 30, 11, 0.423076923),
    1: (20, 28, 12, 0.500000000),
    2: (21, 25, 10, 0.434782609),
    3: (25, 25, 7, 0.280000000),
    4: (21, 26, 8, 0.340425532),
    5: (18, 21, 6, 0.307692308),
    6: (22, 19, 12, 0.585365854),
    7: (23, 22, 9, 0.400000000),
}


# --- lesions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "expected"), PANOPTICA.items())
def test_isles26_as_panoptica_has_it(seed: int, expected: tuple[int, int, int, float]) -> None:
    lesions, predicted, pairs, quality = expected
    found = score(*blobs(seed), UNIT, ISLES26)
    assert (found.lesions, found.predicted_lesions) == (lesions, predicted)
    assert found.lesion_f1 == pytest.approx(quality) == pytest.approx(2 * pairs / (lesions + predicted))


@pytest.mark.parametrize(("found", "f1"), [(1, 1.0), (2, 0.0)])
def test_isles26_wants_a_quarter_of_the_union(found: int, f1: float) -> None:
    """Four voxels, of which the prediction meets the last: 1/4 where it is that voxel alone, 1/5 with one beyond."""
    reference, predicted = box((3, 3, 9), (1, 1, 1), (1, 1, 4)), box((3, 3, 9), (1, 1, 4), (1, 1, found))
    assert score(reference, predicted, UNIT, ISLES26).lesion_f1 == f1
    assert score(reference, predicted, UNIT, RULES["isles24"]).lesion_f1 == 1


def test_one_prediction_over_two_lesions_finds_one_of_them() -> None:
    """3 and 3 voxels with one between them, all marked: 3/7 each, one pair; F1 = 2/(2 + 1)."""
    reference = box((3, 3, 9), (1, 1, 1), (1, 1, 7))
    predicted = reference.copy()
    reference[1, 1, 4] = False
    assert score(reference, predicted, UNIT, ISLES26).lesion_f1 == pytest.approx(2 / 3)
    assert score(reference, predicted, UNIT, RULES["isles22"]).lesion_f1 == 1


# --- the probability map ---------------------------------------------------------------------------------------------


def row(*values: float) -> Array:
    return np.array(values, np.float32).reshape(1, 1, -1)


def test_the_area_by_hand() -> None:
    """Voxels in falling order are there, not, there, not. Precision and recall after each: 1 and ½, ½ and ½, ⅔ and 1,
    ½ and 1, and the curve begins at 1 and 0: ½·1 + ½·(½ + ⅔)/2 = 19/24. Average precision would be 5/6.
    """
    reference = row(1, 0, 1, 0) > 0
    assert precision_recall_area(reference, row(0.9, 0.8, 0.7, 0.1)) == pytest.approx(19 / 24)
    assert precision_recall_area(reference, row(0.9, 0.2, 0.7, 0.1)) == 1


def test_a_constant_map_is_right_without_a_lesion_and_half_right_with_one() -> None:
    """With one lesion voxel in eight: from recall 0 and precision 1 to 1 and 1/8, (1 + 1/8)/2."""
    reference = row(1, 0, 0, 0, 0, 0, 0, 0) > 0
    for value in (0.0, 0.3):
        assert precision_recall_area(np.zeros_like(reference), np.full(reference.shape, value, np.float32)) == 1
        assert precision_recall_area(reference, np.full(reference.shape, value, np.float32)) == pytest.approx(9 / 16)
    assert precision_recall_area(np.zeros_like(reference), row(0, 0, 0, 0, 0, 0, 0, 1e-6)) == 0


def test_the_area_knows_the_order_of_probabilities_alone() -> None:
    rng = np.random.default_rng(1)
    reference = rng.random((6, 7, 8)) < 0.2
    probability = (0.6 * rng.random(reference.shape) + 0.3 * reference).astype(np.float32)
    area = precision_recall_area(reference, probability)
    assert precision_recall_area(reference, np.sqrt(probability)) == pytest.approx(area)
    assert reference.mean() < area < 1


def test_background_far_from_both_masks_counts_in_the_area() -> None:
    """Half of the probabilities of a false voxel reach the lesion's: within the masks' box nothing would be false."""
    reference, predicted = box((4, 4, 8), (1, 1, 1), (1, 1, 1)), box((4, 4, 8), (1, 1, 1), (1, 1, 1))
    probability = predicted.astype(np.float32)
    assert score(reference, predicted, UNIT, ISLES26, probability).pr_auc == 1
    probability[3, 3, 7] = 1.0
    found = score(reference, predicted, UNIT, ISLES26, probability)
    assert found.dice == 1
    assert found.pr_auc == pytest.approx((1 + 0.5) / 2)


def test_other_rules_and_missing_maps_have_no_area() -> None:
    lesion = box((4, 4, 4), (1, 1, 1), (2, 2, 2))
    assert score(lesion, lesion, UNIT, ISLES26).pr_auc is None
    assert score(lesion, lesion, UNIT, RULES["isles22"], lesion.astype(np.float32)).pr_auc is None


def write_map(path: Path, mask: Mask, high: float) -> None:
    write_image(path, (high * mask).astype(np.float32), GRID)


def test_maps_beside_the_masks_are_scored(tmp_path: Path) -> None:
    """The area is 1 for a map that shows the lesion, 0 for a stray value where nothing is."""
    lesion, stray = box(GRID.size_zyx, (3, 4, 4), (2, 3, 3)), box(GRID.size_zyx, (1, 1, 1), (1, 1, 1))
    nothing = np.zeros(GRID.size_zyx, bool)
    for name, reference, shown in (("a", lesion, lesion), ("b", nothing, stray)):
        write_image(tmp_path / "references" / f"{name}.nii.gz", reference.astype(np.uint8), GRID)
        write_image(tmp_path / "masks" / f"{name}.nii.gz", reference.astype(np.uint8), GRID)
        write_map(tmp_path / "masks" / f"{name}_probability.nii.gz", shown, 0.4)
    masks, references = tmp_path / "masks", tmp_path / "references"
    groups, _ = evaluate(masks, tmp_path / "out", references=references, probabilities=masks, rules="isles26")
    assert groups[0].metrics["pr_auc"].mean == 0.5
    assert (tmp_path / "out" / "cases.csv").read_text().splitlines()[0].endswith(",lesion_f1,pr_auc")
    with pytest.raises(InputError, match="--rules isles26"):
        evaluate(masks, tmp_path / "out", references=references, probabilities=masks)
    write_map(masks / "a_probability.nii.gz", lesion, 40.0)
    with pytest.raises(InputError, match=r"a_probability.*probabilities of 0 to 1, found values of 0 to 40"):
        evaluate(masks, tmp_path / "out", references=references, probabilities=masks, rules="isles26")
    (masks / "b_probability.nii.gz").unlink()
    with pytest.raises(InputError, match=r"2 references.*none for 1 \(b\)"):
        evaluate(masks, tmp_path / "out", references=references, probabilities=masks, rules="isles26")


# --- rank, then aggregate --------------------------------------------------------------------------------------------


def test_ranks_by_hand() -> None:
    """Two metrics, three systems, two cases: larger Dice is better, a smaller volume difference; ties share."""
    dice = [[0.9, 0.2], [0.8, 0.2], [0.1, 0.4]]
    volume = [[3.0, np.nan], [1.0, 7.0], [2.0, 9.0]]
    ranks = case_ranks(np.array([dice, volume]), ("dice", "volume_difference_ml"))
    assert ranks[0].tolist() == [[1, 2.5], [2, 2.5], [3, 1]]
    assert ranks[1].tolist() == [[3, 3], [1, 1], [2, 2]]


def test_a_case_weighs_as_much_as_any_other_however_large_its_difference(tmp_path: Path) -> None:
    """The means of volume differences are the first system's to win, the ranks the second's."""
    values = np.array([[[1.0, 1.0, 1.0], [0.9, 0.9, 90.0]]])
    assert values.mean(2)[0].tolist() == pytest.approx([1.0, 30.6])
    assert case_ranks(values, ("volume_difference_ml",)).mean(2)[0].tolist() == pytest.approx([5 / 3, 4 / 3])


def test_compare_ranks_as_the_leaderboard_does(tmp_path: Path) -> None:
    runs = [
        write_scores(tmp_path / name, name, skill, labels={1: "lesion"}) for name, skill in (("A", 0.6), ("B", 0.9))
    ]
    compare([str(run) for run in runs], tmp_path / "out")
    table = (tmp_path / "out" / "tables" / "data-hippocampus.md").read_text().partition("ranked as on a leaderboard")[2]
    first, second = [line for line in table.splitlines() if line.startswith(("| A", "| B"))]
    # Dice and volume difference: 1 in every case; lesions: the same for both in each.
    assert first.startswith("| B | **1.00 ± 0.00** | **1.00 ± 0.00** | **1.50 ± 0.00** | **1.50 ± 0.00** | **1.25")
    assert second.startswith("| A | 2.00 ± 0.00")
    assert f"over {len(CASES)} cases" in table
