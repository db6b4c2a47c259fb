"""Dice + cross-entropy by hand; the lesion-wise term: what each lesion costs, and whom a false positive costs."""

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional as F

from segsync_train.config import LossConfig
from segsync_train.data.patches import nearest_component
from segsync_train.losses import SMOOTH_VOXELS, SegmentationLoss, lesion_dice_loss

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


def voxelwise(logits: Tensor, onehot: Tensor) -> Tensor:
    """1 − Dice, mean over samples and labels without background, + cross-entropy, mean over voxels."""
    p, truth = logits.softmax(1)[:, 1:].flatten(2), onehot[:, 1:].flatten(2)
    dice = (2 * (p * truth).sum(2) + SMOOTH_VOXELS) / (p.sum(2) + truth.sum(2) + SMOOTH_VOXELS)
    return (1 - dice).mean() - (onehot * logits.log_softmax(1)).sum(1).mean()


def test_a_coarser_output_weighs_half_and_its_target_is_the_mean_over_its_voxels() -> None:
    torch.manual_seed(3)
    outputs = [torch.randn(2, 3, side, side, side) for side in (8, 4, 2)]
    label = torch.randint(0, 3, (2, 8, 8, 8), dtype=torch.uint8)
    onehot = torch.stack([(label == value).float() for value in range(3)], dim=1)
    fine, middle, coarse = (
        voxelwise(logits, F.avg_pool3d(onehot, step)) for logits, step in zip(outputs, (1, 2, 4), strict=True)
    )
    expected = (4 * fine + 2 * middle + coarse) / 7
    assert float(SegmentationLoss(LossConfig())(outputs, label)) == pytest.approx(float(expected), rel=1e-5)


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


def test_the_term_is_added_with_its_weight() -> None:
    torch.manual_seed(2)
    label = target()[None]
    regions = torch.from_numpy(nearest_component(label[0].numpy().astype(np.uint8)))[None]
    logits = torch.randn(1, 2, 24, 24, 24)
    with_term, without = (
        float(SegmentationLoss(LossConfig(lesion=weight))([logits], label, regions)) for weight in (0.5, 0.0)
    )
    assert with_term - without == pytest.approx(0.5 * float(lesion_dice_loss(logits, label, regions)), rel=1e-4)
