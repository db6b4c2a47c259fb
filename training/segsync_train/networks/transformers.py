"""The transformers of the self-supervised peers, from MONAI: SwinUNETR (Hatamizadeh et al. 2022) and UNETR (2021).

Both train as the other networks do (`baselines.Baseline`), and their encoders, seen through the classes here, can be
pretrained. They are not exported: where they are traced, their shapes become those of one window.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from monai.networks.nets import UNETR, SwinUNETR
from torch import Tensor

from segsync_train.networks.baselines import Baseline, Size
from segsync_train.networks.features import FeatureEncoder

TransformerName = Literal["swinunetr", "unetr"]

#: Voxels (Z, Y, X) of SwinUNETR's deepest cell, and of UNETR's only one.
SWIN_MULTIPLE, VIT_TOKEN = (32, 32, 32), (16, 16, 16)
#: Blocks of UNETR's twelve, from 0, whose tokens its decoder takes beside the last's.
TAKEN = (3, 6, 9)


@dataclass(frozen=True)
class SwinUNETRConfig:
    """Sizes of a SwinUNETR; the defaults are those of Tang et al. (2022).

    Attributes:
        feature_size: Channels of the first map.
        depths: Blocks of the four stages.
        num_heads: Heads of attention in them.
        window_size: Side of attention's window, in tokens.
    """

    feature_size: int = 48
    depths: tuple[int, ...] = (2, 2, 2, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    #: A residual convolution before each stage (SwinUNETR-V2, He et al. 2023), which VoCo's weights have.
    use_v2: bool = False

    def __post_init__(self) -> None:
        for name, values in (("depths", self.depths), ("num_heads", self.num_heads)):
            if len(values) != 4 or min(values) < 1:
                raise ValueError(f"{name} {values}; expected four numbers of 1 or more")
        if min(self.feature_size, self.window_size) < 1:
            raise ValueError("feature_size and window_size: expected 1 or more")
        if any(self.feature_size * 2**stage % heads for stage, heads in enumerate(self.num_heads)):
            raise ValueError(f"feature_size {self.feature_size} does not divide into num_heads {self.num_heads}")


@dataclass(frozen=True)
class UNETRConfig:
    """Sizes of a UNETR.

    Attributes:
        feature_size: Of the decoder's finest map.
        hidden_size: Of the ViT's twelve blocks.
        mlp_dim: Of their MLPs.
        num_heads: Of their attention.
    """

    feature_size: int = 16
    hidden_size: int = 768
    mlp_dim: int = 3072
    num_heads: int = 12
    #: Biases of queries, keys and values, which timm's ViT has (Hi-End-MAE's weights) and MONAI's has not.
    qkv_bias: bool = False

    def __post_init__(self) -> None:
        if min(self.feature_size, self.hidden_size, self.mlp_dim, self.num_heads) < 1:
            raise ValueError("feature_size, hidden_size, mlp_dim and num_heads: expected 1 or more")


class SwinEncoder(FeatureEncoder):
    """The Swin transformer: five maps, at half the size of the image and at halves of it."""

    def __init__(self, network: SwinUNETR) -> None:
        super().__init__()
        self.wrapped = network.swinViT
        self.widths = tuple(self.wrapped.embed_dim * 2**stage for stage in range(5))
        self.strides_zyx = ((2, 2, 2),) * 5

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of every stage, finest first."""
        return list(self.wrapped(x, True))


class ViTEncoder(FeatureEncoder):
    """The ViT: the tokens of four of its layers, all on one grid, as maps."""

    def __init__(self, network: UNETR) -> None:
        super().__init__()
        self.wrapped = network.vit
        self.grid: Size = network.feat_size
        self.widths = (network.hidden_size,) * (len(TAKEN) + 1)
        self.strides_zyx = (VIT_TOKEN, *((1, 1, 1),) * len(TAKEN))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps (N, D, z, y, x) of the layers, the last one last."""
        return [self._map(tokens) for tokens in self._layers(self.wrapped.patch_embedding(x))]

    def visible(self, x: Tensor, masks: Tensor) -> list[Tensor]:
        """The same, computed from the tokens of visible cells alone; zero in the masked ones. masks: (N, z, y, x)."""
        tokens, shown = self.wrapped.patch_embedding(x), ~masks.flatten(1)
        kept = tokens[shown].reshape(len(x), -1, tokens.shape[-1])
        maps = []
        for layer in self._layers(kept):
            whole = layer.new_zeros(tokens.shape)
            whole[shown] = layer.flatten(0, 1)
            maps.append(self._map(whole))
        return maps

    def _layers(self, tokens: Tensor) -> list[Tensor]:
        taken = []
        for number, block in enumerate(self.wrapped.blocks):
            tokens = block(tokens)
            if number in TAKEN:
                taken.append(tokens)
        return [*taken, self.wrapped.norm(tokens)]

    def _map(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).unflatten(2, self.grid)  # type: ignore[no-untyped-call,no-any-return]


def swinunetr(config: SwinUNETRConfig, in_channels: int, out_channels: int, patch_zyx: Size) -> Baseline:
    """SwinUNETR, which sees windows of the patch's size alone: 32³ would leave its deepest InstanceNorm a single voxel.

    Args:
        config: Its sizes.
        in_channels: Of the image.
        out_channels: Background among them.
        patch_zyx: Voxels of the patch.

    Returns:
        The network, with fresh weights.

    Raises:
        ValueError: Widths do not divide.
    """
    network = SwinUNETR(
        in_channels,
        out_channels,
        feature_size=config.feature_size,
        depths=config.depths,
        num_heads=config.num_heads,
        window_size=config.window_size,
        use_v2=config.use_v2,
    )
    return Baseline(network, in_channels, [patch_zyx], encoder_at="network.swinViT.", heads_at=("network.out.",))


def unetr(config: UNETRConfig, in_channels: int, out_channels: int, patch_zyx: Size) -> Baseline:
    """UNETR, whose positions are learned for one size of patch; raises ValueError for widths that do not divide."""
    network = UNETR(
        in_channels,
        out_channels,
        img_size=patch_zyx,
        feature_size=config.feature_size,
        hidden_size=config.hidden_size,
        mlp_dim=config.mlp_dim,
        num_heads=config.num_heads,
        qkv_bias=config.qkv_bias,
    )
    for name, parameter in network.vit.named_parameters():
        if "cross_attn" in name:  # MONAI's blocks hold them and never use them here
            parameter.requires_grad_(False)
    return Baseline(network, in_channels, [patch_zyx], encoder_at="network.vit.", heads_at=("network.out.",))


def resized_positions(table: Tensor, grid_zyx: Size, wanted_zyx: Size) -> Tensor:
    """Learned positions (1, cells, D) of one grid of tokens, interpolated to another (ViT, section 3.2)."""
    volume = table.transpose(1, 2).unflatten(2, grid_zyx)  # type: ignore[no-untyped-call]
    return F.interpolate(volume, size=wanted_zyx, mode="trilinear", align_corners=False).flatten(2).transpose(1, 2)
