"""VoCo: where in the volume is this crop?

Wu et al. 2024, "VoCo: a simple-yet-effective volume contrastive learning framework for 3D medical image analysis",
CVPR.

A window is tiled by n base crops, in the paper 4 × 4 in the axial plane; random crops of the same size overlap some of
them. With q_i the base crops' and k a random crop's vectors (encoder, global average pooling, projector):

    (prediction)      s_i = max(0, cos(k, sg(q_i))),  d_i = |y_i − s_i|,  y_i = |crop ∩ base_i| / |crop|, Σ y_i = 1
                      L_pred = −1/n Σ_i log(1 − d_i)                          `prediction_loss`, `overlaps`
    (regularisation)  L_reg = 2 / (n (n − 1)) Σ_{i<j} |cos(q_i, q_j)|          `regularisation_loss`
    (loss)            L = L_pred + λ L_reg, λ = 1

sg stops the gradient: what bases are is left to the regularisation. From the released code are: similarities below 0
that count as 0, two random crops of a volume, the pooled maps of every stage, the projector with batch normalisation
(over the crops of a process's batch), and crops mirrored each by itself. Otherwise it holds the authors' later method,
which `released` follows: a teacher, the moving average of encoder and projector (m = 0.9), gives its own q'_i and k',

    (similarity)      s_i = (max(0, cos(k, q'_i)) + max(0, cos(k', q_i))) / 2          `agreement`
    (overlapping)     L_pos = −Σ y_i log(1 − d_i) / Σ y_i                               `released_loss`
    (apart)           L_neg = mean of s_i² over the bases with y_i = 0
    (regularisation)  L_reg = 2 / (n (n − 1)) Σ_{i<j} max(0, cos(q_i, sg(q_j)))²       `released_regularisation`

and L = L_pos + L_neg + λ L_reg. That code also rotates crops, shifts their values, and resizes every volume so that the
bases tile all of it; here they tile a window, at the run's spacing.
"""

import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segsync.arrays import SizeZYX
from segsync_train.networks.features import FeatureEncoder
from segsync_train.ssl.peers_config import VoCoConfig
from segsync_train.ssl.pretext import Draws, Pretext, StepOutput
from segsync_train.ssl.teacher import update_teacher
from segsync_train.ssl.terms import cosines, global_average_pool

#: Purposes of generators.
CROPS, MIRRORS = 1, 2
#: m of the released code's teacher.
MOMENTUM = 0.9
#: Added to 1 − d: the logarithm stays finite, and keeps a gradient.
TINY = 1e-6


def overlaps(corners: Tensor, bases_zyx: SizeZYX, side_zyx: SizeZYX) -> Tensor:
    """Fraction of a crop that lies in each base crop; they add up to 1.

    Args:
        corners: (…, 3) first voxel (Z, Y, X) of crops.
        bases_zyx: Base crops along each axis of the window, n in all.
        side_zyx: Voxels of a crop, base or not.

    Returns:
        (…, n).
    """
    fractions = []
    for axis, (count, side) in enumerate(zip(bases_zyx, side_zyx, strict=True)):
        first = torch.arange(count, device=corners.device) * side
        fractions.append((1 - (corners[..., axis, None] - first).abs() / side).clamp(min=0))
    z, y, x = fractions
    return (z[..., :, None, None] * y[..., None, :, None] * x[..., None, None, :]).flatten(-3)


def prediction_loss(crops: Tensor, bases: Tensor, fractions: Tensor) -> Tensor:
    """L_pred, mean over crops and volumes.

    Args:
        crops: (N, K, D).
        bases: (N, n, D).
        fractions: (N, K, n), as from `overlaps`.

    Returns:
        The loss.
    """
    distance = (fractions - cosines(crops, bases.detach()).clamp(min=0)).abs()
    return -(1 - distance + TINY).log().mean()


def regularisation_loss(bases: Tensor) -> Tensor:
    """L_reg of bases (N, n, D), mean over volumes: 0 where a volume's bases are orthogonal."""
    first, second = torch.triu_indices(bases.shape[1], bases.shape[1], 1, device=bases.device)
    return cosines(bases, bases)[:, first, second].abs().mean()


def agreement(crops: Tensor, bases: Tensor, teachers_crops: Tensor, teachers_bases: Tensor) -> Tensor:
    """Similarities (N, K, n) of crops (N, K, D) and bases (N, n, D), each to the other's of the teacher."""
    return (cosines(crops, teachers_bases).clamp(min=0) + cosines(teachers_crops, bases).clamp(min=0)) / 2


def released_loss(similarity: Tensor, fractions: Tensor) -> Tensor:
    """L_pos + L_neg of similarities and fractions (N, K, n), each over all crops of a volume; mean over volumes."""
    distance = (fractions - similarity).abs()
    overlapping = -(fractions * (1 - distance + TINY).log()).sum((1, 2)) / fractions.sum((1, 2))
    apart = fractions == 0
    none = (apart * similarity.square()).sum((1, 2)) / apart.sum((1, 2)).clamp(min=1)
    return (overlapping + none).mean()


def released_regularisation(bases: Tensor) -> Tensor:
    """L_reg of the released code, of bases (N, n, D)."""
    first, second = torch.triu_indices(bases.shape[1], bases.shape[1], 1, device=bases.device)
    return cosines(bases, bases.detach())[:, first, second].clamp(min=0).square().mean()


def mirrored(crops: Tensor, axes: np.ndarray) -> Tensor:
    """Crops (K, C, z, y, x), each mirrored along the axes (K, 3) that are true."""
    return torch.stack([
        crop.flip((1 + np.flatnonzero(own)).tolist()) for crop, own in zip(crops, axes, strict=True)
    ])  # fmt: skip


def projector(channels: int, width: int) -> nn.Sequential:
    """Three linear maps; between them batch normalisation tells crops apart whose features are alike at first."""
    layers: list[nn.Module] = []
    for before in (channels, width):
        layers += [nn.Linear(before, width), nn.BatchNorm1d(width, affine=False, track_running_stats=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, width))


class Branch(nn.Module):
    """The encoder and a projector of its pooled maps."""

    def __init__(self, encoder: FeatureEncoder, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector(sum(encoder.widths[stage] for stage in encoder.outputs), width)

    def forward(self, images: Tensor) -> Tensor:
        """Crops (M, C, z, y, x) → vectors (M, width)."""
        maps = self.encoder(images)
        pooled = torch.cat([global_average_pool(maps[stage]) for stage in self.encoder.outputs], dim=1)
        vectors: Tensor = self.projector(pooled)
        return vectors.float()


class VoCo(Pretext):
    """Student and, as released, its teacher."""

    kept = "student.encoder"

    def __init__(self, encoder: FeatureEncoder, config: VoCoConfig, patch_zyx: SizeZYX) -> None:
        super().__init__()
        self.config, self.patch_zyx = config, patch_zyx
        self.side_zyx = config.side_zyx(patch_zyx)
        self.student = Branch(encoder, config.width)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False) if config.released else None

    @property
    def trained(self) -> nn.Module:
        """The student."""
        return self.student

    def after_step(self, step: int) -> None:
        """The teacher's moving average."""
        if self.teacher is not None:
            update_teacher(self.teacher, self.student, MOMENTUM)

    def inputs(self, windows: Tensor, draws: Draws, step: int) -> tuple[Any, ...]:
        """Base crops (N, n, C, z, y, x) and random ones (N, K, C, z, y, x) at the patch's size, fractions (N, K, n)."""
        counts, sides = self.config.bases_zyx, self.side_zyx
        places = torch.tensor(list(np.ndindex(counts))) * torch.tensor(sides)
        ends = [(count - 1) * side + 1 for count, side in zip(counts, sides, strict=True)]
        drawn = np.stack([rng.integers(0, ends, (self.config.crops, 3)) for rng in draws(CROPS)])
        corners = torch.from_numpy(drawn)
        cut = [self._cut(window, torch.cat([places, own])) for window, own in zip(windows, corners, strict=True)]
        chances = [rng.random((len(places) + self.config.crops, 3)) for rng in draws(MIRRORS)]
        both = torch.stack([
            mirrored(parts, chance < self.config.mirror) for parts, chance in zip(cut, chances, strict=True)
        ])  # fmt: skip
        return both[:, : len(places)], both[:, len(places) :], overlaps(corners, counts, sides).to(windows)

    def _cut(self, window: Tensor, corners: Tensor) -> Tensor:
        """Crops (K, C, z, y, x) of a window (C, Z, Y, X), brought to the patch's size."""
        z, y, x = self.side_zyx
        parts = torch.stack([window[:, i : i + z, j : j + y, k : k + x] for i, j, k in corners.tolist()])
        if self.side_zyx == self.patch_zyx:
            return parts
        return F.interpolate(parts, size=self.patch_zyx, mode="trilinear", align_corners=False)

    def forward(self, bases: Tensor, crops: Tensor, fractions: Tensor) -> StepOutput:
        """What `inputs` gives."""
        both = torch.cat([bases, crops], dim=1)
        images = both.flatten(0, 1).to(memory_format=torch.channels_last_3d)
        count = bases.shape[1]
        q, k = self.student(images).unflatten(0, both.shape[:2]).tensor_split([count], dim=1)
        if self.teacher is None:
            prediction, regularisation = prediction_loss(k, q, fractions), regularisation_loss(q)
        else:
            with torch.no_grad():
                theirs_q, theirs_k = self.teacher(images).unflatten(0, both.shape[:2]).tensor_split([count], dim=1)
            prediction = released_loss(agreement(k, q, theirs_k, theirs_q), fractions)
            regularisation = released_regularisation(q)
        loss = prediction + self.config.regularisation * regularisation
        return StepOutput(loss, {"prediction": prediction.detach(), "regularisation": regularisation.detach()})
