"""Losses by hand: what each resolution counts, what each lesion costs, and whom a false positive costs."""

import math

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional as F

from segsync_train.config.run import LossConfig
from segsync_train.data.patches import nearest_component
from segsync_train.trainer.losses import SMOOTH_VOXELS, SegmentationLoss, lesion_dice_loss, mean_of_voxels

#: A lesion of 1000 voxels, one of 8, far apart; and what is nearer to the one, or to the other.
LARGE = (slice(2, 12), slice(2, 12), slice(2, 12))
SMALL = (slice(20, 22),) * 3
NEAR_LARGE, NEAR_SMALL = (13, slice(2, 12), slice(2, 7)), (23, slice(18, 23), slice(14, 24))


def target() -> Tensor:
    label = torch.zeros(24, 24, 24, dtype=torch.long)
    label[LARGE] = label[SMALL] = 1
    return label


def loss_of(mask: Tensor, label: Tensor) -> float:
    """Of a mask that the network is sure of."""
    logits = torch.stack([torch.zeros(mask.shape), 40.0 * (2 * mask.float() - 1)])[None]
    regions = torch.from_numpy(nearest_component(label.numpy().astype(np.uint8)))
    return float(lesion_dice_loss(logits, label[None], regions[None]))


def test_every_voxel_belongs_to_the_nearest_lesion() -> None:
    label = np.zeros((1, 1, 10), np.uint8)
    label[..., 1:3] = label[..., 8] = 1
    assert nearest_component(label).tolist() == [[[1, 1, 1, 1, 1, 1, 2, 2, 2, 2]]]
    assert not nearest_component(np.zeros((2, 3, 4), np.uint8)).any()


@pytest.mark.parametrize("missed", [LARGE, SMALL], ids=["large", "small"])
def test_missing_a_small_lesion_costs_as_much_as_missing_a_large_one(missed: tuple[slice, ...]) -> None:
    label = target()
    found = label.clone()
    found[missed] = 0
    assert loss_of(label, label) == pytest.approx(0, abs=1e-6)
    size = int(label[missed].sum())
    assert loss_of(found, label) == pytest.approx((1 - SMOOTH_VOXELS / (size + SMOOTH_VOXELS)) / 2)


def test_a_false_positive_costs_the_nearest_lesion_alone() -> None:
    label = target()
    for where, size in ((NEAR_LARGE, 1000), (NEAR_SMALL, 8)):
        mask = label.clone()
        mask[where] = 1
        expected = 1 - (2 * size + SMOOTH_VOXELS) / (2 * size + 50 + SMOOTH_VOXELS)
        assert loss_of(mask, label) == pytest.approx(expected / 2, abs=1e-6)


def test_with_one_lesion_it_is_monais_dice_loss() -> None:
    torch.manual_seed(1)
    label = torch.zeros(2, 8, 9, 10, dtype=torch.long)
    label[:, 2:5, 3:6, 1:7] = 1
    logits = torch.randn(2, 2, 8, 9, 10)
    judge = DiceLoss(
        include_background=False, softmax=True, to_onehot_y=True, smooth_nr=SMOOTH_VOXELS, smooth_dr=SMOOTH_VOXELS
    )
    found = lesion_dice_loss(logits, label, torch.ones_like(label))
    assert float(found) == pytest.approx(float(judge(logits, label[:, None])), rel=1e-5)


def test_a_sample_without_lesion_adds_nothing_and_has_a_gradient() -> None:
    logits = torch.randn(1, 2, 8, 8, 8, requires_grad=True)
    nothing = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    loss = lesion_dice_loss(logits, nothing, nothing)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss.detach()) == 0
    assert not gradient.any()


def test_a_lesion_is_found_whatever_its_label() -> None:
    """With two labels, one lesion each; the network is sure of the lesions and exchanges their labels."""
    label = target()
    label[SMALL] = 2
    logits = torch.zeros(1, 3, 24, 24, 24)
    logits[0, 0][label == 0] = logits[0, 1][label == 2] = logits[0, 2][label == 1] = 40
    regions = torch.from_numpy(nearest_component(label.numpy().astype(np.uint8)))
    assert float(lesion_dice_loss(logits, label[None], regions[None])) == pytest.approx(0, abs=1e-6)


def test_the_term_is_added_with_its_weight() -> None:
    torch.manual_seed(2)
    label = target()[None]
    regions = torch.from_numpy(nearest_component(label[0].numpy().astype(np.uint8)))[None]
    logits = torch.randn(1, 2, 24, 24, 24)
    with_term, without = (
        float(SegmentationLoss(LossConfig(lesion=weight))([logits], label, regions)) for weight in (0.5, 0.0)
    )
    assert with_term - without == pytest.approx(0.5 * float(lesion_dice_loss(logits, label, regions)), rel=1e-4)


# --- Dice and cross-entropy ------------------------------------------------------------------------------------------


def test_dice_and_cross_entropy_by_hand() -> None:
    """Two samples, two labels: the mean over samples and labels of 1 - Dice, background left out, and -log p."""
    torch.manual_seed(3)
    label, logits = torch.randint(0, 3, (2, 4, 5, 6)), torch.randn(2, 3, 4, 5, 6)
    p, truth = logits.softmax(1)[:, 1:], torch.stack([label == 1, label == 2], 1)
    both, sizes = (p * truth).sum((2, 3, 4)), p.sum((2, 3, 4)) + truth.sum((2, 3, 4))
    dice = (1 - (2 * both + SMOOTH_VOXELS) / (sizes + SMOOTH_VOXELS)).mean()
    entropy = -logits.log_softmax(1).gather(1, label[:, None]).mean()
    for weights in ((1.0, 0.0), (0.0, 1.0), (2.0, 0.5)):
        found = SegmentationLoss(LossConfig(dice=weights[0], cross_entropy=weights[1]))([logits], label)
        assert float(found) == pytest.approx(weights[0] * float(dice) + weights[1] * float(entropy), rel=1e-4)


def test_a_coarser_output_weighs_half_and_its_target_is_a_mean() -> None:
    """A lesion of one voxel is an eighth of a voxel of half the resolution, and of the next a sixty-fourth."""
    torch.manual_seed(4)
    label = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    label[0, 3, 5, 2] = 1
    outputs = [torch.randn(1, 2, side, side, side) for side in (8, 4, 2)]
    loss = SegmentationLoss(LossConfig())
    losses = [float(loss([logits], label)) for logits in outputs]
    assert float(loss(outputs, label)) == pytest.approx((4 * losses[0] + 2 * losses[1] + losses[2]) / 7, rel=1e-5)
    entropy = SegmentationLoss(LossConfig(dice=0.0))
    for logits, fraction, place in zip(outputs[1:], (1 / 8, 1 / 64), ((1, 2, 1), (0, 1, 0)), strict=True):
        of_each = -logits.log_softmax(1)[0]
        z, y, x = place
        expected = of_each[0].sum() + fraction * (of_each[1] - of_each[0])[z, y, x]
        assert float(entropy([logits], label)) == pytest.approx(float(expected) / of_each[0].numel(), rel=1e-5)


def test_half_precision_is_computed_in_float32() -> None:
    """As mixed precision gives the logits: sums over a patch of 64³ would overflow."""
    torch.manual_seed(5)
    logits = torch.randn(1, 2, 64, 64, 64).half()
    label, regions = torch.ones(1, 64, 64, 64, dtype=torch.long), torch.ones(1, 64, 64, 64, dtype=torch.long)
    loss = SegmentationLoss(LossConfig(lesion=1.0))
    assert float(loss([logits], label, regions)) == float(loss([logits.float()], label, regions))


def test_top_k_counts_the_hardest_voxels_alone() -> None:
    """Of four voxels two are wrong: half of them is their mean, by hand; all of them is plain cross-entropy."""
    logits = torch.tensor([[0.0, 1.0, 3.0, 2.0], [0.0, -1.0, 0.0, 4.0]]).reshape(1, 2, 1, 1, 4)
    target = F.one_hot(torch.tensor([0, 0, 1, 0]).reshape(1, 1, 1, 4), 2).movedim(-1, 1).float()
    losses = F.cross_entropy(logits, target, reduction="none")
    each = [math.log(2), math.log(1 + math.exp(-2)), math.log(1 + math.exp(3)), math.log(1 + math.exp(2))]
    assert float(mean_of_voxels(losses, None, 0.5)) == pytest.approx((each[2] + each[3]) / 2, rel=1e-5)
    assert float(mean_of_voxels(losses, None, 0.01)) == pytest.approx(each[2], rel=1e-5)
    every, plain = (SegmentationLoss(LossConfig(top_k=share))([logits], target.argmax(1)) for share in (1.0, None))
    assert float(every) == pytest.approx(float(plain), rel=1e-5)
