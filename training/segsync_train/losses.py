"""Losses of supervised training: Dice + cross-entropy with deep supervision, and a term that counts lesions.

Shapes: logits (N, 1 + L, Z, Y, X) with background first; target (N, Z, Y, X) integers 0 to L; lesions (N, Z, Y, X)
integers, each connected component of the foreground with its own number from 1, 0 elsewhere.
Every loss is the mean of its samples' losses, so that processes of equal batches average to one large batch.
"""

from collections.abc import Sequence

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn
from torch.nn import functional as F

from segsync_train.config import LossConfig

#: Added to both sides of the Dice ratio, in voxels: without it a patch without lesion would teach nothing.
SMOOTH_VOXELS = 1.0


class SegmentationLoss(nn.Module):
    """Dice + cross-entropy at every resolution of the network's output, the lesion-wise term at the finest.

    A coarser output weighs half of the next finer one (Isensee et al. 2021), all together 1. Its target is the mean of
    the one-hot target over each coarse voxel, so that a lesion of few voxels does not vanish from it.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.lesion_weight = config.lesion
        self.voxelwise = DiceCELoss(
            include_background=False,
            softmax=True,
            lambda_dice=config.dice,
            lambda_ce=config.cross_entropy,
            smooth_nr=SMOOTH_VOXELS,
            smooth_dr=SMOOTH_VOXELS,
        )

    def forward(self, outputs: Sequence[Tensor], target: Tensor, lesions: Tensor | None = None) -> Tensor:
        """outputs: logits from the finest to the coarsest; lesions: needed where the term has a weight."""
        total = torch.zeros((), device=target.device)
        weights = [0.5**level for level in range(len(outputs))]
        onehot = F.one_hot(target.long(), outputs[0].shape[1]).movedim(-1, 1).float()
        for logits, weight in zip(outputs, weights, strict=True):
            z, y, x = logits.shape[2:]
            coarse = onehot if onehot.shape[2:] == logits.shape[2:] else F.adaptive_avg_pool3d(onehot, (z, y, x))
            total = total + weight / sum(weights) * self.voxelwise(logits.float(), coarse)
        if self.lesion_weight and lesions is not None:
            total = total + self.lesion_weight * blob_dice_loss(outputs[0].float(), lesions)
        return total


def blob_dice_loss(logits: Tensor, lesions: Tensor) -> Tensor:
    """1 - Dice of every single lesion, averaged over the lesions: the smallest counts as much as the largest.

    Blob loss (Kofler et al. 2023, equation 2) with soft Dice: for each lesion the other lesions' voxels are masked
    out, so that Dice is 2 p(lesion) / (p(lesion) + p(outside all lesions) + size). p(outside) is shared and p(lesion)
    a sum by component, so that one pass over the voxels gives all lesions at once, however many there are.
    Samples without lesions contribute 0.
    """
    probability = 1.0 - logits.softmax(1)[:, 0]
    losses = []
    for p, components in zip(probability.flatten(1), lesions.long().flatten(1), strict=True):
        count = int(components.max()) + 1
        inside = torch.zeros(count, device=p.device).index_add(0, components, p)
        size = torch.bincount(components, minlength=count)
        dice = (2 * inside[1:] + SMOOTH_VOXELS) / (inside[1:] + inside[0] + size[1:] + SMOOTH_VOXELS)
        losses.append((1 - dice).mean() if count > 1 else p.sum() * 0.0)
    return torch.stack(losses).mean()
