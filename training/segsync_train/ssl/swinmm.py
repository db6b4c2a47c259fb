"""SwinMM: masked multi-view.

Wang et al. 2023, "SwinMM: masked multi-view with Swin transformers for 3D medical image segmentation", MICCAI.

Half of a window's cells are hidden. Of the masked window some views are made, each from another side (axial, coronal,
sagittal) and rotated by r · 90° in its own plane. With the encoder's deepest map h of view a and v = GAP(h):

    (reconstruction)  L_rec = mean over views and hidden voxels of (x̂_a − x_a)², x̂ = transposed convolution of h
    (rotation)        L_rot = −log softmax(U v_a)[r_a], r one of 0°, 90°, 180°, 270°
    (contrast)        L_con = NT-Xent of W v of the views, temperature t = 0.5                      `proxies.nt_xent`
    (mutual)          L_mul = mean over pairs a < b and hidden voxels of (T_a⁻¹ x̂_a − T_b⁻¹ x̂_b)²: predictions of one
                      volume from different sides, brought back to the same axes, agree             `mutual_error`
    (loss)            L = L_rec + L_rot + L_con + L_mul

The released code takes two views of one side, each rotated, and each of them once more with two axes swapped; L_rot and
L_con are there of the first two, L_mul of one view and its swapped copy. Here all views take part in all terms. The
paper's second part, a decoder that joins the views at fine-tuning, is no pretext and is left out: encoders are compared
here by one decoder.
"""

from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segsync.arrays import SizeZYX
from segsync_train.networks.features import FeatureEncoder
from segsync_train.ssl.masked import draw_masks, hide
from segsync_train.ssl.peers_config import SwinMMConfig
from segsync_train.ssl.pretext import Draws, Pretext, StepOutput
from segsync_train.ssl.proxies import (
    ROTATION_CLASSES,
    Heads,
    central,
    hidden_voxels,
    nt_xent,
    padded,
    rotated,
    rotated_back,
)

#: Purposes of generators: sides and rotations; masks.
SIDES, MASKS = 1, 2


def mutual_error(predicted: Tensor, hidden: Tensor, sides: Tensor, window_zyx: SizeZYX) -> Tensor:
    """L_mul of predictions that are seen from several sides.

    Where a patch is no cube the views hold different parts of the window; hidden voxels that two of them hold count.

    Args:
        predicted: (V, n, C, z, y, x).
        hidden: (V, n, z, y, x), which voxels were hidden.
        sides: (V, n, 2): orientation and rotations.
        window_zyx: Voxels of the window.

    Returns:
        The mean over the voxels that count.
    """
    marked = torch.cat([predicted, hidden[:, :, None].to(predicted)], dim=2)
    back = torch.stack([
        torch.stack([
            rotated_back(padded(own, window_zyx), rotations, orientation)
            for own, (orientation, rotations) in zip(view, seen, strict=True)
        ])
        for view, seen in zip(marked, sides.tolist(), strict=True)
    ])  # fmt: skip
    errors, shared = predicted.new_zeros(()), predicted.new_zeros(())
    for a, b in combinations(back, 2):
        both = a[:, -1:] * b[:, -1:]
        errors = errors + (both * (a[:, :-1] - b[:, :-1]).square()).sum()
        shared = shared + both.sum() * (a.shape[1] - 1)
    return errors / shared.clamp(min=1)


class SwinMM(Pretext):
    """The encoder and the heads."""

    def __init__(self, encoder: FeatureEncoder, config: SwinMMConfig, patch_zyx: SizeZYX, channels: int) -> None:
        super().__init__()
        self.config, self.patch_zyx, self.window_zyx = config, patch_zyx, config.window_zyx(patch_zyx)
        cells = zip(self.window_zyx, patch_zyx, encoder.grid_zyx(patch_zyx, config.mask_stage), strict=True)
        z, y, x = (max(1, window * count // side) for window, side, count in cells)
        #: Cells of the window, as large as the encoder's of the patch.
        self.grid_zyx: SizeZYX = z, y, x
        self.encoder = encoder
        self.heads = Heads(encoder, patch_zyx, channels, config.width)

    def inputs(self, windows: Tensor, draws: Draws, step: int) -> tuple[Any, ...]:
        """Draw the views.

        Returns:
            Views (V·n, C, Z, Y, X), first ones first; their hidden voxels (V·n, Z, Y, X); sides (V, n, 2): orientation
            and rotations.
        """
        count = self.config.views
        sides = torch.tensor(
            [
                list(
                    zip(
                        rng.permutation(3)[:count].tolist(),
                        rng.integers(ROTATION_CLASSES, size=count).tolist(),
                        strict=True,
                    )
                )
                for rng in draws(SIDES)
            ]
        ).transpose(0, 1)
        masks = draw_masks(self.grid_zyx, self.config.mask_ratio, draws(MASKS)).to(windows.device)
        hidden = hidden_voxels(masks, windows)[:, :1]
        images, masked = (
            torch.stack([
                central(rotated(own, rotations, orientation), self.patch_zyx)
                for seen in sides.tolist()
                for own, (orientation, rotations) in zip(volumes, seen, strict=True)
            ])
            for volumes in (windows, hidden)
        )  # fmt: skip
        return images.to(memory_format=torch.channels_last_3d), masked[:, 0], sides.to(images.device)

    def forward(self, images: Tensor, hidden: Tensor, sides: Tensor) -> StepOutput:
        """What `inputs` gives."""
        config, count = self.config, sides.shape[:2]
        voxels, rotation, vectors = self.heads(self.encoder(hide(images, hidden))[-1])
        asked = hidden[:, None].expand_as(images)
        reconstruction = (voxels[asked] - images[asked]).square().mean()
        rotation_loss = F.cross_entropy(rotation, sides[..., 1].flatten())
        contrast = nt_xent(vectors.chunk(config.views), config.temperature)
        predicted, missing = (tensor.reshape(*count, *tensor.shape[1:]) for tensor in (voxels, hidden))
        mutual = mutual_error(predicted, missing, sides, self.window_zyx)
        terms = {"reconstruction": reconstruction, "rotation": rotation_loss, "contrast": contrast, "mutual": mutual}
        loss = torch.stack([getattr(config, name) * term for name, term in terms.items()]).sum()
        return StepOutput(loss, {name: term.detach() for name, term in terms.items()})
