"""What `tune` tries and ranks: each candidate's scores are those of the mask that the runtime would write."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from builders import grid_of
from segsync.arrays import Array, Mask
from segsync.bundle import DecisionSpec
from segsync.errors import InputError
from segsync.postprocess import remove_components
from segsync_train.evaluation.candidates import CANDIDATES, score_candidates
from segsync_train.evaluation.metrics import RULES, Rules, score
from segsync_train.evaluation.operating_point import TuningCase, rules_named, tune_on

ISLES22 = RULES["isles22"]


def candidate(threshold: float, smallest_ml: float = 0.0, confidence: float = 0.0) -> DecisionSpec:
    return DecisionSpec(threshold=threshold, min_component_ml=smallest_ml, min_component_confidence=confidence)


def maps(seed: int) -> tuple[Mask, Array]:
    """Some lesions, and a map that shows most of them and others."""
    rng = np.random.default_rng(seed)
    truth, noise = (ndimage.gaussian_filter(rng.standard_normal((10, 16, 18)), 1.1) for _ in range(2))
    probability = 1 / (1 + np.exp(-12 * (truth + 0.5 * noise - 0.15)))
    return truth > np.quantile(truth, 0.93), probability.astype(np.float32)


def test_scores_by_hand_at_each_threshold_size_and_confidence() -> None:
    """Two lesions of 8 and 1 voxels of 2 ml; the large one, whose halves meet at a corner, is found.

    A false voxel reaches 0.5 and is a component of 2 ml: it goes by size, by threshold, or by its confidence.
    """
    reference = np.zeros((1, 8, 12), bool)
    reference[0, 1:3, 1:3] = reference[0, 3:5, 3:5] = True
    probability = 0.9 * reference.astype(np.float32)
    reference[0, 7, 1] = True
    probability[0, 6, 8] = 0.5
    tried = [candidate(0.5), candidate(0.5, 2.0), candidate(0.5, 2.1), candidate(0.8), candidate(0.5, 0.0, 0.6)]
    found = score_candidates(reference, probability, 2.0, ISLES22, tried)
    assert found["dice"] == pytest.approx([2 * 8 / (9 + 9)] * 2 + [2 * 8 / (8 + 9)] * 3)
    assert found["lesion_f1"] == pytest.approx([2 / (2 + 1 + 1)] * 2 + [2 / (2 + 1)] * 3)
    assert found["volume_difference_ml"] == pytest.approx([0, 0, 2, 2, 2])
    assert found["lesion_count_difference"] == pytest.approx([0, 0, 1, 1, 1])


def test_nothing_found_where_nothing_is_counts_as_right() -> None:
    nothing, stray = np.zeros((3, 4, 4), bool), np.zeros((3, 4, 4), np.float32)
    stray[1, 1, 1] = 0.6
    found = score_candidates(nothing, stray, 1.0, RULES["isles26"], [candidate(0.5), candidate(0.5, 0.0, 0.7)])
    # A lesion that is not there makes the map vary; where the mask is empty a constant map is written.
    assert [values.tolist() for values in found.values()] == [[0, 1], [1, 0], [1, 0], [0, 1], [0, 1]]


@pytest.mark.parametrize("rules", RULES.values(), ids=lambda rules: rules.name)
def test_every_candidate_scores_as_the_mask_that_it_makes(rules: Rules) -> None:
    grid = grid_of((10, 16, 18), (2.0, 1.0, 1.0))
    reference, probability = maps(3)
    tried = [candidate(t, ml, sure) for t in (0.35, 0.6) for ml in (0.0, 0.012) for sure in (0.0, 0.8)]
    found = score_candidates(reference, probability, grid.voxel_ml, rules, tried)
    for place, one in enumerate(tried):
        labels = (probability >= one.threshold).astype(np.uint8)
        mask, _ = remove_components(labels, probability, grid, one.min_component_ml, one.min_component_confidence)
        expected = score(reference, mask > 0, grid.spacing_zyx, rules, probability)
        assert {metric: values[place] for metric, values in found.items()} == pytest.approx(
            {metric: getattr(expected, metric) for metric in found}
        )


def test_tuning_finds_the_confidence_that_parts_lesions_from_false_ones(tmp_path: Path) -> None:
    """Lesions of 0.62 that reach 0.97 in one voxel beside false spots of as many voxels that do not."""

    def case(seed: int) -> TuningCase:
        rng = np.random.default_rng(seed)
        reference, probability = np.zeros((3, 20, 20), bool), np.zeros((3, 20, 20), np.float32)
        for place, column in enumerate((1, 5, 9, 13)):
            row = int(rng.integers(1, 17))
            probability[1, row : row + 2, column : column + 2] = 0.62
            if place % 2:
                reference[1, row : row + 2, column : column + 2] = True
                probability[1, row, column] = 0.97
        return TuningCase(str(seed), reference, probability, 0.01)

    point = tune_on(iter([case(seed) for seed in range(4)]), ISLES22, tmp_path)
    assert point.min_component_confidence > 0.62
    assert (point.dice, point.lesion_f1, point.cases, point.rules) == (1, 1, 4, "isles22")
    assert json.loads((tmp_path / "operating_point.json").read_text()) == point.model_dump()
    rows = list(csv.DictReader((tmp_path / "operating_points.csv").read_text().splitlines()))
    assert len(rows) == len(CANDIDATES)
    chosen = [row for row in rows if float(row["min_component_confidence"]) == point.min_component_confidence]
    assert min(float(row["mean_rank"]) for row in chosen) == min(float(row["mean_rank"]) for row in rows)


def test_rules_are_the_tasks_unless_named() -> None:
    assert [rules_named(*given).name for given in ((None, "isles26"), (None, "hippocampus"), ("atlas", "isles26"))] == [
        "isles26", "isles22", "atlas",
    ]  # fmt: skip
    with pytest.raises(InputError, match="isles22, isles24, isles26"):
        rules_named("isles27", "isles26")


def test_no_cases_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no cases to choose an operating point on"):
        tune_on(iter([]), ISLES22, tmp_path)
