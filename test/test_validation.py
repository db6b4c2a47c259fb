"""Scores of validation while training, by hand."""

import numpy as np
import pytest
import torch

from segsync.bundle import ChannelSpec, InferenceSpec, ZScore
from segsync.pipeline import Pipeline
from segsync_train.data.cases import build_case
from segsync_train.trainer.validation import CaseScore, summary, validate


def test_scores_without_any_lesion_say_that_nothing_is_found() -> None:
    """As before: where no case holds any label, 1 for each that finds none; a label of one case counts in all."""

    def case(name: str, dice: tuple[float, ...], holds: tuple[bool, ...]) -> CaseScore:
        return CaseScore(name, dice, holds, lesions=0, found=0, false=0, volume_ml=0.0, predicted_ml=0.0)

    assert summary([case("a", (1.0,), (False,)), case("b", (0.0,), (False,))])["validation/score"] == 0.5
    assert summary([case("a", (1.0, 0.0), (False, False))])["validation/score"] == 0.5
    mixed = [case("a", (0.2, 1.0, 1.0), (True, False, False)), case("b", (0.4, 0.0, 1.0), (True, True, False))]
    means = summary(mixed)
    assert means["validation/score"] == pytest.approx(0.4)
    assert means["validation/dice_2"] == 0.5
    assert "validation/dice_3" not in means


def test_a_validated_case_by_hand() -> None:
    """Label 1 is found where both labels together reach a half; label 2 is missed, and found in one voxel elsewhere."""
    label = np.zeros((12, 12, 12), dtype=np.uint8)
    label[1:4, 1:4, 1:4], label[8:10, 8:10, 8:10] = 1, 2
    probabilities = np.zeros((1, 2, 12, 12, 12), dtype=np.float32)
    probabilities[0, :, 1:4, 1:4, 1:4] = np.reshape((0.35, 0.3), (2, 1, 1, 1))
    probabilities[0, 1, 6, 6, 6] = 0.5
    image = np.ones((1, 12, 12, 12), dtype=np.float32)
    case = build_case("c", image, label, label >= 0, (2.0, 1.0, 1.0))
    channels = (ChannelSpec(name="t1", normalisation=ZScore()),)
    spec = InferenceSpec(
        channels=channels,
        labels={3: "one", 7: "other"},
        spacing_zyx=case.spacing_zyx,
        patch_zyx=(12, 12, 12),
        multiple_zyx=(1, 1, 1),
    )
    pipeline = Pipeline(spec, lambda array: probabilities)
    [(_, predicted, found)] = validate(torch.nn.Identity(), [case], pipeline, 0.5)
    assert np.array_equal(predicted, probabilities[0].argmax(0) + 1 - (probabilities[0].sum(0) == 0))
    assert found == CaseScore(
        "c", dice=(1.0, 0.0), holds=(True, True), lesions=2, found=1, false=1, volume_ml=0.07, predicted_ml=0.056
    )
    empty = CaseScore("e", (0.0, 1.0), (False, False), lesions=0, found=0, false=1, volume_ml=0, predicted_ml=0.5)
    means = summary([found, empty])
    assert means["validation/false_ml"] == 0.5
    assert means["validation/lesion_f1"] == pytest.approx(2 / (2 + 1 + 2))
