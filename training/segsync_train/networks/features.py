"""What every encoder is to pretraining: feature maps by stage, at known widths and strides."""

from torch import nn

Stride = tuple[int, int, int]
#: Where a library's encoder stands in an encoder here.
WRAPPED = "wrapped."


class FeatureEncoder(nn.Module):
    """Called with an image (N, C, Z, Y, X) it gives the feature maps of every stage, finest first.

    Attributes:
        widths: Channels of each map.
        strides_zyx: Of each map on the one before it (the first: on the image).
    """

    widths: tuple[int, ...]
    strides_zyx: tuple[Stride, ...]

    @property
    def flat(self) -> bool:
        """Whether all maps have the same cells, as a ViT's layers do."""
        return all(stride == (1, 1, 1) for stride in self.strides_zyx[1:])

    @property
    def outputs(self) -> range:
        """Stages that together hold what the encoder made: a pyramid's all, a ViT's last, which holds the others."""
        return range(len(self.widths) - 1 if self.flat else 0, len(self.widths))

    def grid_zyx(self, patch_zyx: tuple[int, int, int], stage: int) -> tuple[int, int, int]:
        """Cells (Z, Y, X) of a stage's feature map, stages counted from the deepest (-1)."""
        z, y, x = patch_zyx
        for dz, dy, dx in self.strides_zyx[: len(self.strides_zyx) + stage + 1]:
            z, y, x = z // dz, y // dy, x // dx
        return z, y, x
