"""What the pretexts share that reconstruct hidden cells: patches of voxels, tokens of feature maps, the error."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segsync.arrays import SizeZYX
from segsync.errors import InputError
from segsync_train.networks.features import FeatureEncoder
from segsync_train.networks.resenc import LibraryEncoder
from segsync_train.networks.transformers import ViTEncoder
from segsync_train.networks.xlstm_unet import Encoder
from segsync_train.ssl.masked import hide
from segsync_train.ssl.peers_config import AutoencoderConfig
from segsync_train.ssl.sparse import sparse


def patchify(volume: Tensor, grid_zyx: SizeZYX) -> Tensor:
    """(N, C, Z, Y, X) → (N, cells, C · voxels of a cell), cells in (Z, Y, X) order."""
    z, y, x = grid_zyx
    parts = volume.unflatten(4, (x, -1)).unflatten(3, (y, -1)).unflatten(2, (z, -1))  # type: ignore[no-untyped-call]
    patches: Tensor = parts.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)
    return patches


def normalised(patches: Tensor) -> Tensor:
    """Every patch by its own mean and standard deviation (MAE, section 3); a patch of one value becomes zero."""
    patches = patches.float()
    variance, mean = torch.var_mean(patches, -1, correction=0, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def hidden_error(predicted: Tensor, target: Tensor, masks: Tensor) -> Tensor:
    """Mean squared error over hidden patches alone.

    Args:
        predicted: (N, cells, V).
        target: Likewise.
        masks: As from `draw_masks`.

    Returns:
        The mean.
    """
    hidden = masks.flatten(1)
    return (predicted[hidden].float() - target[hidden].float()).square().mean()


def see(encoder: FeatureEncoder, image: Tensor, masks: Tensor, *, sparsely: bool = False) -> list[Tensor]:
    """The encoder's maps of an image whose masked cells it is not shown.

    A ViT computes the visible tokens alone, as MAE's does. For an encoder of convolutions or windows the masked cells
    are set to zero, as `segsync_train.ssl.masked` does. What the maps hold in masked cells is replaced by a mask token.

    Args:
        encoder: The encoder.
        image: (N, C, Z, Y, X).
        masks: As from `draw_masks`.
        sparsely: Whether the masked cells stay zero in every layer (`sparse`).

    Returns:
        The map of every stage, finest first.
    """
    if isinstance(encoder, ViTEncoder):
        return encoder.visible(image, masks)
    with sparse(encoder, masks) if sparsely else nullcontext():
        maps: list[Tensor] = encoder(hide(image, masks))
    return maps


def check_sparse(encoder: FeatureEncoder, config: AutoencoderConfig) -> None:
    """Raises InputError where sparse masking is asked for and the encoder has more than convolutions and ViL blocks."""
    if config.sparse and not isinstance(encoder, Encoder | LibraryEncoder):
        raise InputError(
            "pretext.sparse: expected an encoder of convolutions (an xLSTM-UNet, resenc-m, resenc-l, plainconv), found "
            f"{type(encoder).__name__}; leave it out"
        )


class Tokens(nn.Module):
    """Feature maps of some stages as tokens of the masks' cells.

    They are averaged or repeated onto them, mapped linearly, a map a stage, and added.
    """

    def __init__(self, encoder: FeatureEncoder, stages: Sequence[int], grid_zyx: SizeZYX, width: int) -> None:
        super().__init__()
        self.grid_zyx, self.stages = grid_zyx, stages
        self.maps = nn.ModuleList(nn.Linear(encoder.widths[stage], width) for stage in stages)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The encoder's maps, finest first → (N, cells, width)."""
        parts = [
            linear(F.adaptive_avg_pool3d(maps[stage], self.grid_zyx).flatten(2).transpose(1, 2))
            for stage, linear in zip(self.stages, self.maps, strict=True)
        ]
        return torch.stack(parts).sum(0)
