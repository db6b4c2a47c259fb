"""The xLSTM-UNet as published (Chen et al. 2024): `UXlstmEnc` and `UXlstmBot`, whose weights load as they are.

Modules have the published names, so that a state dict of the one is a state dict of the other. What is computed is the
same, by `mlstm_chunkwise` in place of the quadratic form. `docs/paper.md` says where `xlstm_unet`, which this
project trains, differs.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from torch import Tensor, nn

from segsync.arrays import SizeZYX
from segsync_train.networks.features import FeatureEncoder, Stride
from segsync_train.networks.mlstm import mlstm_chunkwise
from segsync_train.networks.vil import FORGET_BIAS, KERNEL
from segsync_train.networks.xlstm_unet import SLOPE

PublishedName = Literal["published-enc", "published-bot"]

#: `UXlstmEnc` has ViL blocks from this stage on; before it a residual block stands in their place.
FIRST_VIL_STAGE = 3
HEADS, EXPANSION = 4, 2


@dataclass(frozen=True)
class PublishedConfig:
    """The published network's sizes, finest stage first; the defaults are those of a patch of 128³.

    Attributes:
        widths: Channels of each stage.
        strides_zyx: Of each stage's first convolution.
        encoder_blocks: As the authors' code has them.
        decoder_blocks: Likewise.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    strides_zyx: tuple[Stride, ...] = ((1, 1, 1), *((2, 2, 2),) * 5)
    encoder_blocks: tuple[int, ...] = (2, 2, 2, 1, 1, 1)
    decoder_blocks: tuple[int, ...] = (1, 1, 2, 2, 2)

    def __post_init__(self) -> None:
        stages = len(self.widths)
        counts = (len(self.strides_zyx), len(self.encoder_blocks), len(self.decoder_blocks) + 1)
        if stages < 2 or set(counts) != {stages}:
            raise ValueError(
                f"{stages} widths, {counts[0]} strides_zyx, {counts[1]} encoder_blocks and {counts[2] - 1} "
                "decoder_blocks; expected as many of each, and one less of the decoder's"
            )
        if min(*self.widths, *self.encoder_blocks, *self.decoder_blocks, *np.ravel(self.strides_zyx)) < 1:
            raise ValueError("widths, strides_zyx, encoder_blocks and decoder_blocks: expected numbers of 1 or more")


class PublishedXLSTMUNet(nn.Module):
    """Encoder and decoder; logits of every decoder stage, finest first.

    Where a feature map has no more voxels than channels, `published-enc` takes channels for tokens and voxels for
    their features: such a network knows one size of patch alone.
    """

    def __init__(
        self, name: PublishedName, config: PublishedConfig, in_channels: int, out_channels: int, patch_zyx: SizeZYX
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config, in_channels, patch_zyx if name == "published-enc" else None)
        if name == "published-bot":
            self.xlstm = _ViLLayer(config.widths[-1], channel_tokens=False)
        self.decoder = _Decoder(self.encoder, config, out_channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, Z, Y, X) → logits (N, K, …) of every stage of the decoder."""
        maps: list[Tensor] = self.encoder(x)
        if hasattr(self, "xlstm"):
            maps = [*maps[:-1], self.xlstm(maps[-1])]
        logits: list[Tensor] = self.decoder(maps)
        return logits


class PublishedEncoder(FeatureEncoder):
    """The encoder of `published-enc`, to be pretrained."""

    def __init__(self, network: PublishedXLSTMUNet) -> None:
        super().__init__()
        self.wrapped = network.encoder
        self.widths, self.strides_zyx = network.config.widths, network.config.strides_zyx

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of every stage, finest first."""
        maps: list[Tensor] = self.wrapped(x)
        return maps


class _Encoder(nn.Module):
    """patch_zyx: of a network with a ViL block in every deep stage; None has no blocks."""

    def __init__(self, config: PublishedConfig, in_channels: int, patch_zyx: SizeZYX | None) -> None:
        super().__init__()
        first, blocks = config.widths[0], config.encoder_blocks
        self.stem = _stage(in_channels, first, blocks[0])
        self.stages, layers = nn.ModuleList(), nn.ModuleList()
        width, size = first, patch_zyx or (0, 0, 0)
        for stage, (out, stride, count) in enumerate(zip(config.widths, config.strides_zyx, blocks, strict=True)):
            self.stages.append(_stage(width, out, count, stride))
            size = tuple(side // step for side, step in zip(size, stride, strict=True))  # type: ignore[assignment]
            voxels = math.prod(size)
            if stage < FIRST_VIL_STAGE:
                layers.append(_residual(out))
            else:
                channel_tokens = voxels <= out
                layers.append(_ViLLayer(voxels if channel_tokens and patch_zyx else out, channel_tokens=channel_tokens))
            width = out
        self.xlstm_layers = layers if patch_zyx is not None else None

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if self.xlstm_layers is not None:
                x = self.xlstm_layers[number](x)
            maps.append(x)
        return maps


class _Decoder(nn.Module):
    """It holds the encoder as well, as the published one does: its weights stand in a state dict twice."""

    def __init__(self, encoder: _Encoder, config: PublishedConfig, out_channels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.stages, self.upsample_layers, self.seg_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        pairs = zip(config.widths[:0:-1], config.widths[-2::-1], config.strides_zyx[:0:-1], strict=True)
        for (deep, fine, stride), count in zip(pairs, config.decoder_blocks[::-1], strict=True):
            self.upsample_layers.append(_Upsample(deep, fine, stride))
            self.stages.append(_stage(2 * fine, fine, count))
            self.seg_layers.append(nn.Conv3d(fine, out_channels, 1))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x, logits = maps[-1], []
        for grow, stage, head, skip in zip(
            self.upsample_layers, self.stages, self.seg_layers, maps[-2::-1], strict=True
        ):
            x = stage(torch.cat([grow(x), skip], 1))
            logits.append(head(x))
        return logits[::-1]


class _Upsample(nn.Module):
    def __init__(self, deep: int, fine: int, stride: Stride) -> None:
        super().__init__()
        self.conv = nn.Conv3d(deep, fine, 1)
        self.scale = tuple(float(step) for step in stride)

    def forward(self, x: Tensor) -> Tensor:
        # As in `xlstm_unet.Decoder`: convolving first gives the same and is cheaper.
        return F.interpolate(self.conv(x), scale_factor=self.scale, mode="nearest")


class _ResBlock(nn.Module):
    """The first block of a stage, which changes the width and the size."""

    def __init__(self, width: int, out: int, stride: Stride) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(width, out, 3, stride, padding=1)
        self.norm1 = nn.InstanceNorm3d(out, affine=True)
        self.conv2 = nn.Conv3d(out, out, 3, padding=1)
        self.norm2 = nn.InstanceNorm3d(out, affine=True)
        self.conv3 = nn.Conv3d(width, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.norm1(self.conv1(x)), SLOPE)
        return F.leaky_relu(self.norm2(self.conv2(y)) + self.conv3(x), SLOPE)


def _stage(width: int, out: int, count: int, stride: Stride = (1, 1, 1)) -> nn.Sequential:
    return nn.Sequential(_ResBlock(width, out, stride), *(_residual(out) for _ in range(count - 1)))


def _residual(width: int) -> nn.Module:
    """The residual block of nnU-Net's library."""
    block: nn.Module = BasicBlockD(
        nn.Conv3d, width, width, (3, 3, 3), (1, 1, 1), conv_bias=True, norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
    )  # fmt: skip
    return block


class _ViLLayer(nn.Module):
    """norm stands in the published weights and is never called."""

    def __init__(self, features: int, *, channel_tokens: bool) -> None:
        super().__init__()
        self.channel_tokens = channel_tokens
        self.norm = nn.LayerNorm(features).requires_grad_(False)
        self.vil = _ViLBlock(features)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2)
        mixed: Tensor = self.vil(tokens) if self.channel_tokens else self.vil(tokens.transpose(1, 2)).transpose(1, 2)
        return mixed.reshape(x.shape)


class _Gain(nn.Module):
    """The gain of a norm without a bias, stored less 1."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features))


class _ViLBlock(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = _Gain(features)
        self.layer = _Mixer(features)

    def forward(self, tokens: Tensor) -> Tensor:
        gain = 1 + self.norm.weight
        mixed: Tensor = self.layer(F.layer_norm(tokens.float(), gain.shape, gain))
        return tokens + mixed


class _Headwise(nn.Module):
    """A matrix (out, in) for each block of features."""

    def __init__(self, width: int, size: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_small(torch.empty(width // size, size, size), features))

    def forward(self, x: Tensor) -> Tensor:
        blocks, size, _ = self.weight.shape
        parts = torch.einsum("...bi,boi->...bo", x.unflatten(-1, (blocks, size)), self.weight)  # type: ignore[no-untyped-call]
        return parts.flatten(-2)


class _Convolution(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, KERNEL, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        after: Tensor = self.conv(F.pad(x.transpose(1, 2), (KERNEL - 1, 0)))
        return after.transpose(1, 2)


class _Cell(nn.Module):
    """One direction, gates without a cap; heads as many as a block on the diagonal has features."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.igate, self.fgate = nn.Linear(3 * width, heads), nn.Linear(3 * width, heads)
        self.outnorm = _Gain(width)
        nn.init.zeros_(self.igate.weight)
        nn.init.zeros_(self.fgate.weight)
        nn.init.normal_(self.igate.bias, std=0.1)
        with torch.no_grad():
            self.fgate.bias.copy_(torch.linspace(*FORGET_BIAS, heads))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, tokens, width = q.shape
        joint = torch.cat([q, k, v], -1)
        i, f = (gate(joint).transpose(1, 2) for gate in (self.igate, self.fgate))
        q, k, v = (t.reshape(batch, tokens, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        hidden = mlstm_chunkwise(q, k, v, i, f).transpose(1, 2).reshape(batch * tokens, width)
        return F.group_norm(hidden, self.heads, 1 + self.outnorm.weight).reshape(batch, tokens, width)


class _Mixer(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        width, size = EXPANSION * features, HEADS if features % HEADS == 0 else 2
        self.proj_up = nn.Linear(features, 2 * width, bias=False)
        self.q_proj, self.k_proj, self.v_proj = (_Headwise(width, size, features) for _ in range(3))
        self.conv1d = _Convolution(width)
        self.mlstm_cell = _Cell(width, size)
        self.learnable_skip = nn.Parameter(torch.ones(width))
        self.proj_down = nn.Linear(width, features, bias=False)
        with torch.no_grad():
            _small(self.proj_up.weight, features)
            nn.init.normal_(self.proj_down.weight, std=2 / math.sqrt(features))

    def forward(self, tokens: Tensor) -> Tensor:
        # In float32 even under autocast, as published.
        with torch.autocast(tokens.device.type, enabled=False):
            x, z = self.proj_up(tokens).chunk(2, -1)
            local = F.silu(self.conv1d(x))
            mixed = self.mlstm_cell(self.q_proj(local), self.k_proj(local), self.v_proj(x))
            after: Tensor = self.proj_down((mixed + self.learnable_skip * local) * F.silu(z))
        return after


def _small(weight: Tensor, features: int) -> Tensor:
    """Nguyen and Salazar (2019): normal, of variance 2 / (5 features)."""
    return nn.init.normal_(weight, std=math.sqrt(2 / (5 * features)))
