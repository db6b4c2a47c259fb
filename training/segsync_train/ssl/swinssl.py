"""The pretraining of Swin UNETR, here SwinSSL.

Tang et al. 2022, "Self-supervised pre-training of Swin transformers for 3D medical image analysis", CVPR.

Of every window two views are made, each rotated by r · 90° about Z and with a fraction of its voxels cut out. With the
encoder's deepest map h of a view and v = GAP(h):

    (inpainting)   L_inpaint = mean over all voxels of |x̂ − x|, x̂ = transposed convolution of h
    (contrast)     L_contrast = NT-Xent of W v of the two views, temperature t = 0.5          `proxies.nt_xent`
    (rotation)     L_rot = −log softmax(U v)[r], r one of 0°, 90°, 180°, 270°
    (loss)         L = λ1 L_inpaint + λ2 L_contrast + λ3 L_rot, all λ = 1

The paper drops 30 % of the voxels, in boxes of random places; here cells of the encoder are dropped, as in the other
pretexts (`masked.draw_masks`), and are zero. With `released`, as in the released code, boxes of 5 to 25 % of each side
are filled with noise until up to 30 % of the voxels are, and then more of them with what another view of the batch has
there (`filled`). That code reads rotation and contrast off two of h's tokens and has up-sampling convolutions for x̂; v
suits every encoder, since a cell of convolutions sees its neighbourhood alone. Negatives are the other volumes of a
process's batch.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segsync.arrays import SizeZYX
from segsync_train.networks.features import FeatureEncoder
from segsync_train.ssl.masked import draw_masks, hide
from segsync_train.ssl.peers_config import SwinSSLConfig
from segsync_train.ssl.pretext import Draws, Pretext, StepOutput
from segsync_train.ssl.proxies import ROTATION_CLASSES, Heads, central, nt_xent, rotated

#: Largest fraction of the voxels in boxes of one kind, and a box's sides as fractions of the view's.
DROPPED, SIDES = 0.3, (0.05, 0.25)
#: Purposes of generators: rotations, and masks of the first and the second view.
ROTATIONS, MASKS = 1, (2, 3)


def boxes(size_zyx: Sequence[int], rng: np.random.Generator) -> Iterator[tuple[slice, slice, slice]]:
    """Boxes of 5 to 25 % of each side, one after the other, until together they are what was drawn: up to 30 %.

    A box that reaches beyond the border is cut; one that lies over another counts again.
    """
    wanted = rng.uniform(0, DROPPED) * math.prod(size_zyx)
    while wanted > 0:
        box = []
        for side in size_zyx:
            least = max(1, int(SIDES[0] * side))
            first = int(rng.integers(side))
            length = int(rng.integers(least, max(least, int(SIDES[1] * side)) + 1))
            box.append(slice(first, min(first + length, side)))
        z, y, x = box
        wanted -= math.prod(part.stop - part.start for part in box)
        yield z, y, x


def filled(images: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
    """Views with boxes of noise, of a view's own range, and boxes of another view of the batch.

    Args:
        images: Views (n, C, Z, Y, X).
        rngs: One a view. The other view is drawn from all; where it is the view itself, there is noise alone.

    Returns:
        The views, filled.
    """
    shown = images.clone()
    for number, rng in enumerate(rngs):
        own = shown[number]
        low, high = float(own.min()), float(own.max())
        for box in boxes(own.shape[1:], rng):
            noise = rng.standard_normal(own[:, *box].shape, dtype=np.float32)
            noise = (noise - noise.min()) / max(float(np.ptp(noise)), np.finfo(np.float32).tiny)
            own[:, *box] = torch.from_numpy(low + (high - low) * noise).to(own)
        other = int(rng.integers(len(images)))
        for box in boxes(own.shape[1:], rng) if other != number else ():
            own[:, *box] = images[other][:, *box]
    return shown


class SwinSSL(Pretext):
    """The encoder and the three heads."""

    def __init__(self, encoder: FeatureEncoder, config: SwinSSLConfig, patch_zyx: SizeZYX, channels: int) -> None:
        super().__init__()
        self.config, self.patch_zyx = config, patch_zyx
        self.grid_zyx = encoder.grid_zyx(patch_zyx, config.mask_stage)
        self.encoder = encoder
        self.heads = Heads(encoder, patch_zyx, channels, config.width)

    def inputs(self, windows: Tensor, draws: Draws, step: int) -> tuple[Any, ...]:
        """Both views (2n, C, Z, Y, X), first ones first; what the encoder sees of them; their rotations (2n)."""
        rotations = [rng.integers(ROTATION_CLASSES, size=2).tolist() for rng in draws(ROTATIONS)]
        views = [
            central(rotated(window, own[view]), self.patch_zyx)
            for view in range(2)
            for window, own in zip(windows, rotations, strict=True)
        ]
        answers = torch.tensor([own[view] for view in range(2) for own in rotations])
        images = torch.stack(views).to(memory_format=torch.channels_last_3d)
        if self.config.released:
            shown = filled(images, [rng for word in MASKS for rng in draws(word)])
        else:
            masks = torch.cat([draw_masks(self.grid_zyx, self.config.mask_ratio, draws(word)) for word in MASKS])
            shown = hide(images, masks.to(images.device))
        return images, shown, answers.to(images.device)

    def forward(self, images: Tensor, shown: Tensor, rotations: Tensor) -> StepOutput:
        """What `inputs` gives."""
        config = self.config
        voxels, rotation, vectors = self.heads(self.encoder(shown)[-1])
        inpainting = (voxels - images).abs().mean()
        contrast = nt_xent(vectors.chunk(2), config.temperature)
        rotation_loss = F.cross_entropy(rotation, rotations)
        loss = config.inpainting * inpainting + config.contrast * contrast + config.rotation * rotation_loss
        terms = {"inpainting": inpainting.detach(), "contrast": contrast.detach(), "rotation": rotation_loss.detach()}
        return StepOutput(loss, terms)
