"""xLSTM-UNet (Chen et al. 2024), as 3D-SegSync uses it: a residual 3D U-Net with ViL blocks in any of its stages.

Unlike the published code it reads sequences in both directions and takes any size its strides divide.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segsync_train.networks.features import FeatureEncoder, Stride
from segsync_train.networks.normalisation import InstanceNorm
from segsync_train.networks.vil import ViLBlock

SLOPE = 0.01
PresetName = Literal["tiny", "compact", "small", "default", "enc", "bot"]


@dataclass(frozen=True)
class XLSTMUNetConfig:
    """Everything that decides the network's weights.

    Attributes:
        in_channels: Of the image.
        out_channels: Background among them.
        widths: Channels of each stage, finest first.
        strides_zyx: Of each stage's first convolution.
        encoder_blocks: Residual blocks of each stage, finest first; empty is one each.
        decoder_blocks: Likewise, with one stage less.
        vil_stages: Stages (0 is the finest) that end in a ViL block.
        directions: Of a ViL block; see there.
        heads: Likewise.
        block_size: Likewise.
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    strides_zyx: tuple[Stride, ...]
    encoder_blocks: tuple[int, ...] = ()
    decoder_blocks: tuple[int, ...] = ()
    vil_stages: tuple[int, ...] = ()
    directions: int = 2
    heads: int = 4
    block_size: int | None = None

    def __post_init__(self) -> None:
        stages = len(self.widths)
        if stages != len(self.strides_zyx) or stages < 2:
            raise ValueError(f"{stages} widths and {len(self.strides_zyx)} strides; expected two or more of each")
        if min(self.widths) < 1 or any(len(stride) != 3 or min(stride) < 1 for stride in self.strides_zyx):
            raise ValueError(f"widths {self.widths}, strides_zyx {self.strides_zyx}; expected numbers of 1 or more")
        for name, blocks, count in (
            ("encoder_blocks", self.encoder_blocks, stages),
            ("decoder_blocks", self.decoder_blocks, stages - 1),
        ):
            if blocks and (len(blocks) != count or min(blocks) < 1):
                raise ValueError(f"{name} {blocks}; expected {count} numbers of 1 or more, or none")
        if any(not 0 <= stage < len(self.widths) for stage in self.vil_stages):
            raise ValueError(f"vil_stages {self.vil_stages} of a network with stages 0 to {len(self.widths) - 1}")

    @property
    def multiple_zyx(self) -> tuple[int, int, int]:
        """What the sides of a patch must be multiples of: the product of all strides."""
        z = y = x = 1
        for dz, dy, dx in self.strides_zyx:
            z, y, x = z * dz, y * dy, x * dx
        return z, y, x


def preset(name: PresetName, in_channels: int, out_channels: int) -> XLSTMUNetConfig:
    """A named network.

    `enc`, `bot`: widths, blocks and places of the published code, one direction. `default`: ViL blocks in the three
    deepest of six stages, both directions. `small`: a CPU serves it. `compact`: widths that fill the vector registers
    of a CPU and the tiles of a GPU. `tiny`: two cores train it in an hour.
    """
    halves = ((2, 2, 2),) * 5
    published = XLSTMUNetConfig(
        in_channels,
        out_channels,
        widths=(32, 64, 128, 256, 320, 320),
        strides_zyx=((1, 1, 1), *halves),
        encoder_blocks=(2, 2, 2, 1, 1, 1),
        decoder_blocks=(1, 1, 2, 2, 2),
        directions=1,
        block_size=4,
    )
    five = XLSTMUNetConfig(
        in_channels, out_channels, widths=(12, 24, 48, 80, 96), strides_zyx=((1, 1, 1), *halves[:4]), vil_stages=(3, 4)
    )
    return {
        "enc": replace(published, vil_stages=(3, 4, 5)),
        "bot": replace(published, vil_stages=(5,)),
        "default": replace(published, vil_stages=(3, 4, 5), directions=2),
        "small": replace(five, widths=(20, 40, 80, 144, 216)),
        "compact": replace(five, widths=(16, 32, 64, 96, 128)),
        "tiny": five,
    }[name]


class ResidualBlock(nn.Module):
    """Two 3³ convolutions with InstanceNorm and LeakyReLU, and a shortcut (1³ convolution where shapes differ).

    The convolutions keep their biases, which InstanceNorm cancels, as the published code does.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Stride = (1, 1, 1)) -> None:
        super().__init__()
        self.first = nn.Conv3d(in_channels, out_channels, 3, stride, padding=1)
        self.first_norm = InstanceNorm(out_channels)
        self.second = nn.Conv3d(out_channels, out_channels, 3, padding=1)
        self.second_norm = InstanceNorm(out_channels)
        same = in_channels == out_channels and stride == (1, 1, 1)
        self.shortcut = nn.Identity() if same else nn.Conv3d(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, Z, Y, X) → (N, out, Z/sz, Y/sy, X/sx)."""
        y = F.leaky_relu(self.first_norm(self.first(x)), SLOPE, inplace=True)
        y = self.second_norm(self.second(y)).add_(self.shortcut(x))
        return F.leaky_relu(y, SLOPE, inplace=True)


class Encoder(FeatureEncoder):
    """The stages that pretraining trains and fine-tuning takes over."""

    def __init__(self, config: XLSTMUNetConfig) -> None:
        super().__init__()
        self.config = config
        self.widths, self.strides_zyx = config.widths, config.strides_zyx
        self.stages = nn.ModuleList()
        width = config.in_channels
        for stage, (out, stride) in enumerate(zip(config.widths, config.strides_zyx, strict=True)):
            blocks: list[nn.Module] = [ResidualBlock(width, out, stride)]
            count = config.encoder_blocks[stage] if config.encoder_blocks else 1
            blocks += [ResidualBlock(out, out) for _ in range(count - 1)]
            if stage in config.vil_stages:
                blocks.append(
                    ViLBlock(
                        out,
                        heads=config.heads,
                        directions=config.directions,
                        block_size=config.block_size,
                    )
                )
            self.stages.append(nn.Sequential(*blocks))
            width = out

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of every stage, finest first; raises ValueError for a size the strides do not divide."""
        sides = tuple(x.shape[2:])
        if any(side % multiple for side, multiple in zip(sides, self.config.multiple_zyx, strict=True)):
            raise ValueError(f"expected sides that are multiples of {self.config.multiple_zyx}, found {sides}")
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """Nearest up-sampling + 1³ convolution, concatenation with the encoder's map, residual blocks; a head a stage."""

    def __init__(self, config: XLSTMUNetConfig) -> None:
        super().__init__()
        self.narrow = nn.ModuleList()
        self.stages = nn.ModuleList()
        self.heads = nn.ModuleList()
        self.strides = config.strides_zyx[:0:-1]
        counts = config.decoder_blocks or (1,) * (len(config.widths) - 1)
        for deep, fine, count in zip(config.widths[:0:-1], config.widths[-2::-1], counts[::-1], strict=True):
            self.narrow.append(nn.Conv3d(deep, fine, 1))
            blocks = [ResidualBlock(2 * fine, fine)]
            blocks += [ResidualBlock(fine, fine) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*blocks))
            self.heads.append(nn.Conv3d(fine, config.out_channels, 1))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps of every decoder stage, finest first, of the encoder's maps, finest first.

        The encoder's maps are taken out of their list, so that none is held longer than it is needed.
        """
        x = features.pop()
        maps = []
        for narrow, stage, stride in zip(self.narrow, self.stages, self.strides, strict=True):
            # The 1³ convolution and nearest up-sampling commute; convolving first is cheaper by the stride's volume.
            x = F.interpolate(narrow(x), scale_factor=tuple(float(s) for s in stride), mode="nearest")
            x = stage(torch.cat([x, features.pop()], dim=1))
            maps.append(x)
        return maps[::-1]

    def logits(self, maps: list[Tensor]) -> list[Tensor]:
        """Logits (N, K, …) of the given finest maps, finest first."""
        return [head(m) for head, m in zip(list(self.heads)[::-1], maps, strict=False)]


class XLSTMUNet(nn.Module):
    """Encoder and decoder.

    Input (N, C, Z, Y, X) with sides that `multiple_zyx` divides; logits (N, K, Z, Y, X), background first. Calling it
    in training mode gives those of every decoder stage, finest first (deep supervision); in evaluation mode the finest
    alone.
    """

    encoder_at = "encoder."
    heads_at = ("decoder.heads.",)
    #: What sees the image itself, and so depends on how many channels it has.
    input_weights = ("encoder.stages.0.0.first.weight", "encoder.stages.0.0.shortcut.weight")

    def __init__(self, config: XLSTMUNetConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @property
    def multiple_zyx(self) -> tuple[int, int, int]:
        """What the sides of a patch must be multiples of."""
        return self.config.multiple_zyx

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.config.in_channels

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits: a list in training mode, one tensor in evaluation mode."""
        return self.decoder.logits(self.decoder(self.encoder(x))) if self.training else self.finest(x)

    def finest(self, x: Tensor) -> Tensor:
        """The finest logits in either mode."""
        return self.decoder.logits(self.decoder(self.encoder(x))[:1])[0]
