"""nnU-Net's residual encoder networks (Isensee et al. 2024), from the library that nnU-Net builds them with.

`resenc-m` and `resenc-l` differ in what nnU-Net's planner allows them of a GPU's memory, hence in patch and batch; with
those given, as here, both are the one network of the plan. `plainconv` is nnU-Net's standard network without residuals.
Modules have the library's names, so that weights of nnU-Net v2 and nnssl load as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, nn

from segsync_train.networks.baselines import Baseline, Plan
from segsync_train.networks.features import FeatureEncoder, Stride

ResEncName = Literal["resenc-m", "resenc-l", "plainconv"]

#: Residual blocks of a stage, finest first (nnU-Net's ResEnc planners); one convolution a stage of the decoder.
RESIDUAL_BLOCKS = (1, 3, 4, 6, 6, 6, 6, 6, 6, 6)
#: Convolutions of a stage of the standard network, in encoder and decoder.
CONVOLUTIONS = 2


@dataclass(frozen=True)
class ResEncConfig:
    """Stages, finest first; empty is what nnU-Net's rules make of the patch and the spacing.

    OpenMind's ResEnc-L has six stages, halved five times, whatever the patch: its import says so.
    """

    widths: tuple[int, ...] = ()
    strides_zyx: tuple[Stride, ...] = ()
    kernels_zyx: tuple[Stride, ...] = ()
    #: Residual blocks of each encoder stage, or convolutions of `plainconv`'s.
    encoder_blocks: tuple[int, ...] = field(default=())
    decoder_blocks: tuple[int, ...] = field(default=())

    def planned(self, name: ResEncName, plan: Plan) -> "ResEncConfig":
        """Nothing is empty. Raises ValueError where the numbers of stages differ."""
        strides = self.strides_zyx or plan.strides_zyx
        stages = len(strides)
        kernels = plan.kernels_zyx if strides == plan.strides_zyx else ((3, 3, 3),) * stages
        widths = plan.widths if stages == len(plan.widths) else tuple(min(32 * 2**s, 320) for s in range(stages))
        residual = name != "plainconv"
        chosen = ResEncConfig(
            self.widths or widths,
            strides,
            self.kernels_zyx or kernels,
            self.encoder_blocks or (RESIDUAL_BLOCKS[:stages] if residual else (CONVOLUTIONS,) * stages),
            self.decoder_blocks or ((1 if residual else CONVOLUTIONS),) * (stages - 1),
        )
        counts = {
            "widths": len(chosen.widths),
            "kernels_zyx": len(chosen.kernels_zyx),
            "encoder_blocks": len(chosen.encoder_blocks),
            "decoder_blocks": len(chosen.decoder_blocks) + 1,
        }
        for key, count in counts.items():
            if count != stages or stages < 2:
                raise ValueError(f"{key}: expected it to fit {stages} strides_zyx, two or more, found {count}")
        return chosen


def resenc(name: ResEncName, config: ResEncConfig, in_channels: int, out_channels: int) -> Baseline:
    """A network of the library. config: as `planned` gives it."""
    network = (PlainConvUNet if name == "plainconv" else ResidualEncoderUNet)(
        in_channels,
        len(config.widths),
        list(config.widths),
        nn.Conv3d,
        [list(kernel) for kernel in config.kernels_zyx],
        [list(stride) for stride in config.strides_zyx],
        list(config.encoder_blocks),
        out_channels,
        list(config.decoder_blocks),
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )
    return Baseline(
        network,
        in_channels,
        config.strides_zyx,
        encoder_at="network.encoder.",
        heads_at=("network.decoder.seg_layers.",),
    )


class LibraryEncoder(FeatureEncoder):
    """The encoder of such a network, to be pretrained."""

    def __init__(self, encoder: nn.Module, strides_zyx: Sequence[Stride]) -> None:
        super().__init__()
        self.wrapped = encoder
        self.widths = tuple(encoder.output_channels)  # type: ignore[arg-type]
        self.strides_zyx = tuple(strides_zyx)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of every stage, finest first."""
        maps: list[Tensor] = self.wrapped(x)
        return maps
