"""Sparse masking for encoders of convolutions (SparK, Tian et al. 2023, "Designing BERT for convolutional networks").

Dense convolutions carry what is visible into hidden cells, and see the mask; after a few layers nothing is hidden.
Here each convolution's output is set to 0 in hidden cells again, instance normalisation takes its statistics over
visible voxels alone, and a ViL block reads the visible tokens alone, as a ViT of MAE does. The weights are those of the
same encoder used densely afterwards. SparK's own decoder is a U-Net; here the pretext's is kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from segsync_train.networks.vil import ViLBlock


@contextmanager
def sparse(encoder: nn.Module, masks: Tensor) -> Iterator[None]:
    """While it lasts the encoder computes visible cells alone, zero in hidden ones.

    Args:
        encoder: Of convolutions and ViL blocks.
        masks: (n, z, y, x) over cells of the deepest stage, True where hidden, as many in each sample: every stage's
            map then consists of whole cells.
    """
    seeing = _Seeing(masks)
    handles = []
    for module in encoder.modules():
        if isinstance(module, nn.Conv3d):
            handles.append(module.register_forward_hook(seeing.convolved))
        elif isinstance(module, nn.InstanceNorm3d):
            handles.append(module.register_forward_hook(seeing.normalised))
        elif isinstance(module, ViLBlock):
            handles.append(module.register_forward_pre_hook(seeing.gathered))
            handles.append(module.register_forward_hook(seeing.scattered))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Seeing:
    """The hooks; maps are (n, C, Z, Y, X)."""

    def __init__(self, masks: Tensor) -> None:
        self.shown = (~masks).float()[:, None]

    def visible(self, like: Tensor) -> Tensor:
        """(n, 1, Z, Y, X) of a map: 1 in visible cells."""
        shown: Tensor = F.interpolate(self.shown, size=like.shape[2:], mode="nearest").to(like.dtype)
        return shown

    def convolved(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return output * self.visible(output)

    def normalised(self, module: nn.InstanceNorm3d, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        (x,) = inputs
        visible = self.visible(x).float()
        count = visible.sum((2, 3, 4), keepdim=True)
        mean = (x.float() * visible).sum((2, 3, 4), keepdim=True) / count
        centred = (x.float() - mean) * visible
        gain = (centred.square().sum((2, 3, 4), keepdim=True) / count + module.eps).rsqrt()
        normed: Tensor = centred * gain * module.weight[:, None, None, None] + module.bias[:, None, None, None]
        return (normed * visible).to(output.dtype)

    def gathered(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        """The visible tokens in their order, as a map of one row."""
        (x,) = inputs
        self.whole, self.at = x, self.visible(x).flatten(2).bool()[:, 0]
        kept = x.flatten(2).transpose(1, 2)[self.at].reshape(len(x), -1, x.shape[1])
        return (kept.transpose(1, 2)[:, :, None, None],)

    def scattered(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        whole = output.new_zeros(len(output), self.at.shape[1], output.shape[1])
        whole[self.at] = output.flatten(2).transpose(1, 2).flatten(0, 1)
        return whole.transpose(1, 2).reshape(self.whole.shape)
