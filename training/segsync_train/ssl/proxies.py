"""The proxy tasks that SwinSSL and SwinMM have in common: rotated patches, their inpainting, NT-Xent."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segsync.arrays import SizeZYX
from segsync_train.networks.features import FeatureEncoder
from segsync_train.ssl.terms import cosines, global_average_pool

#: Rotations by 0°, 90°, 180° and 270° about the first axis.
ROTATION_CLASSES = 4


def rotated(volume: Tensor, rotations: int, orientation: int = 0) -> Tensor:
    """A volume (C, Z, Y, X) with its axes shifted `orientation` times, then rotated by so many right angles.

    Orientations 0 to 2 bring Z, Y or X to the front: axial, coronal and sagittal slices.
    """
    axes = [1 + (axis + orientation) % 3 for axis in range(3)]
    return torch.rot90(volume.permute(0, *axes), rotations, (2, 3))


def rotated_back(volume: Tensor, rotations: int, orientation: int = 0) -> Tensor:
    """The inverse of `rotated`."""
    axes = [1 + (axis - orientation) % 3 for axis in range(3)]
    return torch.rot90(volume, -rotations, (2, 3)).permute(0, *axes)


def central(volume: Tensor, size_zyx: SizeZYX) -> Tensor:
    """The middle of a volume (…, Z, Y, X)."""
    first = [(have - want) // 2 for have, want in zip(volume.shape[-3:], size_zyx, strict=True)]
    z, y, x = (slice(start, start + want) for start, want in zip(first, size_zyx, strict=True))
    return volume[..., z, y, x]


def padded(volume: Tensor, size_zyx: SizeZYX) -> Tensor:
    """The inverse of `central`, with zeros around it."""
    pad: list[int] = []
    for have, want in zip(reversed(volume.shape[-3:]), reversed(size_zyx), strict=True):
        pad += [(want - have) // 2, want - have - (want - have) // 2]
    return F.pad(volume, pad)


def nt_xent(vectors: Sequence[Tensor], temperature: float) -> Tensor:
    """The normalised, temperature-scaled cross-entropy (SimCLR, Chen et al. 2020, eq. 1) of two views or more.

    Mean over all ordered pairs (i, j) of views of one volume of −log exp(cos(i, j) / t) / Σ_{k ≠ i} exp(cos(i, k) / t),
    k over all views of all volumes of this process's batch.

    Args:
        vectors: (n, D) of each view.
        temperature: t.

    Returns:
        The loss.
    """
    views, count = len(vectors), len(vectors[0])
    every = torch.cat(list(vectors))
    logits = cosines(every, every) / temperature
    own = torch.eye(len(every), dtype=torch.bool, device=every.device)
    log_fraction = logits.masked_fill(own, -torch.inf).log_softmax(-1)
    volume = torch.arange(count, device=every.device).repeat(views)
    pairs = (volume[:, None] == volume) & ~own
    return -log_fraction[pairs].mean()


class Heads(nn.Module):
    """On the deepest map: voxels by a transposed convolution; rotation and contrast from the pooled vector, linear."""

    def __init__(self, encoder: FeatureEncoder, patch_zyx: SizeZYX, channels: int, width: int) -> None:
        super().__init__()
        deepest, grid = encoder.widths[-1], encoder.grid_zyx(patch_zyx, -1)
        z, y, x = (side // cells for side, cells in zip(patch_zyx, grid, strict=True))
        self.voxels = nn.ConvTranspose3d(deepest, channels, (z, y, x), (z, y, x))
        self.rotation = nn.Linear(deepest, ROTATION_CLASSES)
        self.contrast = nn.Linear(deepest, width)

    def forward(self, deepest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The deepest map (N, D, …) → voxels (N, C, Z, Y, X), logits of the rotations (N, 4), vectors (N, width)."""
        vectors = global_average_pool(deepest)
        return self.voxels(deepest).float(), self.rotation(vectors).float(), self.contrast(vectors).float()


def hidden_voxels(masks: Tensor, image: Tensor) -> Tensor:
    """Masks (N, z, y, x) over cells as masks (N, C, Z, Y, X) over an image's voxels."""
    grown = F.interpolate(masks[:, None].to(image.dtype), size=image.shape[2:], mode="nearest")
    return grown.bool().expand_as(image)
