"""Losses of supervised training: Dice + cross-entropy with deep supervision, and a term that counts lesions.

Shapes: logits (N, 1 + L, Z, Y, X) with background first; target (N, Z, Y, X) integers 0 to L; regions (N, Z, Y, X)
integers, the number from 1 of the lesion that is nearest to each voxel, 0 throughout a sample without any.
Every loss is the mean of its samples' losses, so that processes of equal batches average to one large batch.
"""

from collections.abc import Sequence

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn
from torch.nn import functional as F

from segsync_train.config.run import LossConfig

#: Added to both sides of the Dice ratio, in voxels: without it a patch without lesion would teach nothing.
SMOOTH_VOXELS = 1.0


class SegmentationLoss(nn.Module):
    """Dice + cross-entropy at every resolution of the network's output, the lesion-wise term at the finest.

    A coarser output weighs half of the next finer one (Isensee et al. 2021), all together 1; without `coarsest` the
    last one of several weighs nothing, as in nnU-Net's code. Its target is the mean of the one-hot target over each
    coarse voxel, so that a lesion of few voxels does not vanish from it.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.lesion_weight = config.lesion
        self.coarsest = config.coarsest
        self.top_k, self.top_k_weight = config.top_k, config.cross_entropy
        self.voxelwise = DiceCELoss(
            include_background=False,
            softmax=True,
            lambda_dice=config.dice,
            lambda_ce=config.cross_entropy if config.top_k is None else 0.0,
            smooth_nr=SMOOTH_VOXELS,
            smooth_dr=SMOOTH_VOXELS,
        )

    def forward(self, outputs: Sequence[Tensor], target: Tensor, regions: Tensor | None = None) -> Tensor:
        """outputs: logits from the finest to the coarsest; regions: needed where the term has a weight."""
        total = torch.zeros((), device=target.device)
        outputs = outputs if self.coarsest or len(outputs) < 2 else outputs[:-1]
        weights = [0.5**level for level in range(len(outputs))]
        onehot = F.one_hot(target.long(), outputs[0].shape[1]).movedim(-1, 1).float()
        for logits, weight in zip(outputs, weights, strict=True):
            z, y, x = logits.shape[2:]
            coarse = onehot if onehot.shape[2:] == logits.shape[2:] else F.adaptive_avg_pool3d(onehot, (z, y, x))
            loss = self.voxelwise(logits.float(), coarse)
            if self.top_k is not None:
                loss = loss + self.top_k_weight * top_k_cross_entropy(logits.float(), coarse, self.top_k)
            total = total + weight / sum(weights) * loss
        if self.lesion_weight and regions is not None:
            total = total + self.lesion_weight * lesion_dice_loss(outputs[0].float(), target, regions)
        return total


def top_k_cross_entropy(logits: Tensor, target: Tensor, fraction: float) -> Tensor:
    """Cross-entropy of each sample's hardest voxels alone (Wu et al. 2016; nnU-Net's TopK loss).

    Args:
        logits: (N, 1 + L, Z, Y, X).
        target: (N, 1 + L, Z, Y, X), probabilities.
        fraction: Of the voxels, at least one.

    Returns:
        The mean over these voxels of all samples.
    """
    losses = F.cross_entropy(logits, target, reduction="none").flatten(1)
    return losses.topk(max(1, round(fraction * losses.shape[1])), dim=1).values.mean()


def lesion_dice_loss(logits: Tensor, target: Tensor, regions: Tensor) -> Tensor:
    """1 - Dice of every single lesion within its region, averaged over the lesions: the smallest counts as the largest.

    The regions of CC-Metrics (Jaus et al. 2025), as a loss by Bouteille et al. (2025), here with soft Dice alone. A
    false positive lowers the score of the nearest lesion and of no other, unlike blob loss (Kofler et al. 2023), where
    it hides what a small lesion far away would bring. Samples without lesions contribute 0.
    """
    probability = 1.0 - logits.softmax(1)[:, 0]
    losses = []
    for p, truth, region in zip(
        probability.flatten(1), (target > 0).float().flatten(1), regions.long().flatten(1), strict=True
    ):
        count = int(region.max()) + 1
        predicted, both, size = torch.zeros(3, count, device=p.device).index_add(
            1, region, torch.stack([p, p * truth, truth])
        )
        dice = (2 * both + SMOOTH_VOXELS) / (predicted + size + SMOOTH_VOXELS)
        losses.append((1 - dice[1:]).mean() if count > 1 else p.sum() * 0.0)
    return torch.stack(losses).mean()
