"""Losses of supervised training: Dice + cross-entropy with deep supervision, and a term that counts lesions.

Shapes: logits (N, C, Z, Y, X), background first, or one channel a region; target (N, Z, Y, X) integers as in
`LabelledCase.label`: 0 background, then the numbers of values, IGNORED; regions (N, Z, Y, X) integers, the number from
1 of the lesion that is nearest to each voxel, 0 throughout a sample without any.
Every loss is the mean of its samples' losses, so that processes of equal batches average to one large batch.
"""

from collections.abc import Sequence

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from segsync_train.config.labels import LabelSet
from segsync_train.config.run import LossConfig
from segsync_train.data.cases import IGNORED
from segsync_train.networks.outputs import probabilities

#: Added to both sides of the Dice ratio, in voxels: without it a patch without lesion would teach nothing.
SMOOTH_VOXELS = 1.0
#: Below this part of a coarse voxel nothing of it counts as labelled.
LEAST_KNOWN = 1e-6


class SegmentationLoss(nn.Module):
    """Dice + cross-entropy at every resolution of the network's output, the lesion-wise term at the finest.

    A coarser output weighs half of the next finer one (Isensee et al. 2021), all together 1; without `coarsest` the
    last one of several weighs nothing, as in nnU-Net's code. Its target is the mean of the one-hot target over each
    coarse voxel, so that a lesion of few voxels does not vanish from it.

    Regions have a sigmoid each, and a binary cross-entropy. What nobody labelled counts in no term: a coarse voxel
    counts by the part of it that somebody did.
    """

    def __init__(self, config: LossConfig, labels: LabelSet | None = None) -> None:
        """labels: what the target's numbers mean; None: each is a label of its own, and all is labelled."""
        super().__init__()
        self.dice_weight, self.entropy_weight, self.lesion_weight = config.dice, config.cross_entropy, config.lesion
        self.coarsest, self.top_k = config.coarsest, config.top_k
        self.dice = DiceLoss(smooth_nr=SMOOTH_VOXELS, smooth_dr=SMOOTH_VOXELS)
        self.overlapping = labels is not None and bool(labels.regions)
        self.ignoring = labels is not None and labels.ignore is not None
        self.members: Tensor
        members = torch.zeros(0)
        if labels is not None and labels.regions:
            members = torch.zeros(len(labels.values) + 1, len(labels.labels))
            for region, places in enumerate(labels.places):
                members[list(places), region] = 1.0
        self.register_buffer("members", members, persistent=False)

    def forward(self, outputs: Sequence[Tensor], target: Tensor, regions: Tensor | None = None) -> Tensor:
        """outputs: logits from the finest to the coarsest; regions: needed where the term has a weight."""
        total = torch.zeros((), device=target.device)
        outputs = outputs if self.coarsest or len(outputs) < 2 else outputs[:-1]
        weights = [0.5**level for level in range(len(outputs))]
        known = (target != IGNORED)[:, None].float() if self.ignoring else None
        onehot = self._channels(target, outputs[0].shape[1], known)
        for logits, weight in zip(outputs, weights, strict=True):
            z, y, x = logits.shape[2:]
            if onehot.shape[2:] == logits.shape[2:]:
                coarse, part = onehot, known
            else:
                coarse = F.adaptive_avg_pool3d(onehot, (z, y, x))
                part = None if known is None else F.adaptive_avg_pool3d(known, (z, y, x))
                coarse = coarse if part is None else coarse / part.clamp(min=LEAST_KNOWN)
            total = total + weight / sum(weights) * self._voxelwise(logits.float(), coarse, part)
        if self.lesion_weight and regions is not None:
            term = lesion_dice_loss(outputs[0].float(), target, regions, overlapping=self.overlapping)
            total = total + self.lesion_weight * term
        return total

    def _channels(self, target: Tensor, channels: int, known: Tensor | None) -> Tensor:
        """The target (N, C, Z, Y, X) as 0 and 1, 0 where nothing is known."""
        places = target.long() if known is None else target.long().masked_fill(target == IGNORED, 0)
        hot = self.members.to(target.device)[places] if self.overlapping else F.one_hot(places, channels).float()
        hot = hot.movedim(-1, 1)
        return hot if known is None else hot * known

    def _voxelwise(self, logits: Tensor, target: Tensor, known: Tensor | None) -> Tensor:
        """Dice and cross-entropy of one output; known: (N, 1, Z, Y, X), how much of a voxel somebody labelled."""
        loss = torch.zeros((), device=logits.device)
        if self.dice_weight:
            found = probabilities(logits, overlapping=self.overlapping)
            truth = target if self.overlapping else target[:, 1:]
            if known is not None:
                found, truth = found * known, truth * known
            loss = loss + self.dice_weight * self.dice(found, truth)
        if self.entropy_weight:
            if self.overlapping:
                each = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
            else:
                each = F.cross_entropy(logits, target, reduction="none")
            loss = loss + self.entropy_weight * mean_of_voxels(each, known, self.top_k)
        return loss


def mean_of_voxels(losses: Tensor, known: Tensor | None = None, hardest: float | None = None) -> Tensor:
    """The mean of voxels' losses, of each sample first.

    Args:
        losses: (N, Z, Y, X).
        known: (N, 1, Z, Y, X), how much of a voxel counts; None: all. A sample of which nothing counts adds 0.
        hardest: The fraction of each sample's voxels that alone count, those with the largest losses, one at least
            (Wu et al. 2016; nnU-Net's TopK loss); None: all.

    Returns:
        The mean over the samples.
    """
    flat = losses.flatten(1)
    if known is None:
        if hardest is not None:
            flat = flat.topk(max(1, round(hardest * flat.shape[1])), dim=1).values
        return flat.mean()
    weights = known.flatten(1)
    if hardest is not None:
        counts = [max(1, round(hardest * voxels)) for voxels in weights.sum(1).tolist()]
        return torch.stack([one.topk(n).values.mean() for one, n in zip(flat * weights, counts, strict=True)]).mean()
    return ((flat * weights).sum(1) / weights.sum(1).clamp(min=LEAST_KNOWN)).mean()


def lesion_dice_loss(logits: Tensor, target: Tensor, regions: Tensor, *, overlapping: bool = False) -> Tensor:
    """1 - Dice of every single lesion within its region, averaged over the lesions: the smallest counts as the largest.

    The regions of CC-Metrics (Jaus et al. 2025), as a loss by Bouteille et al. (2025), here with soft Dice alone. A
    false positive lowers the score of the nearest lesion and of no other, unlike blob loss (Kofler et al. 2023), where
    it hides what a small lesion far away would bring. Samples without lesions contribute 0. overlapping: whether labels
    overlap (regions); the likeliest counts.
    """
    probability = logits.sigmoid().amax(1) if overlapping else 1.0 - logits.softmax(1)[:, 0]
    probability, found = probability * (target != IGNORED), (target > 0) & (target != IGNORED)
    losses = []
    for p, truth, region in zip(
        probability.flatten(1), found.float().flatten(1), regions.long().flatten(1), strict=True
    ):
        count = int(region.max()) + 1
        predicted, both, size = torch.zeros(3, count, device=p.device).index_add(
            1, region, torch.stack([p, p * truth, truth])
        )
        dice = (2 * both + SMOOTH_VOXELS) / (predicted + size + SMOOTH_VOXELS)
        losses.append((1 - dice[1:]).mean() if count > 1 else p.sum() * 0.0)
    return torch.stack(losses).mean()
