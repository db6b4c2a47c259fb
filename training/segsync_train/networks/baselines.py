"""The supervised baselines of the paper's tables, from MONAI, with nnU-Net's rules for their depth and widths.

`nnunet` is MONAI's network by nnU-Net's plan, trained by this project's loop; nnU-Net's own networks are in `resenc`.

All behave as `XLSTMUNet` does: a list of logits in training mode, finest first, and the finest alone in evaluation.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from monai.networks.nets import DynUNet, UNet
from torch import Tensor, nn

BaselineName = Literal["nnunet", "resunet", "unet"]

Size = tuple[int, int, int]

#: nnU-Net (Isensee et al. 2021): an axis is halved while at least so many voxels remain.
SMALLEST_SIDE = 4
#: It halves the axes whose spacing is within this factor of the finest; across thick slices it waits for the others.
ANISOTROPY = 2.0
FIRST_WIDTH, LARGEST_WIDTH = 32, 320
#: Stages below which MONAI has no such network.
FEWEST_STAGES = {"nnunet": 3, "resunet": 3, "unet": 2}


@dataclass(frozen=True)
class Plan:
    """What nnU-Net's rules make of a patch and a spacing: strides, kernels and widths of each stage, finest first."""

    strides_zyx: tuple[Size, ...]
    kernels_zyx: tuple[Size, ...]
    widths: tuple[int, ...]


def plan(patch_zyx: Size, spacing_zyx: tuple[float, float, float]) -> Plan:
    """nnU-Net's topology (Isensee et al. 2021, supplement 2).

    An axis is halved while it has twice the shortest side, alone while it has three times. Kernels are 1 wide across
    slices much thicker than the finest axis; once 3 wide they stay so, and in the deepest stage all are.
    """
    size, spacing = list(patch_zyx), list(spacing_zyx)
    strides: list[Size] = [(1, 1, 1)]
    kernels: list[Size] = []
    wide = [False, False, False]
    while True:
        room = [n >= 2 * SMALLEST_SIDE for n in size]
        finest = min((s for s, long in zip(spacing, room, strict=True) if long), default=0.0)
        halved = [long and s < ANISOTROPY * finest for s, long in zip(spacing, room, strict=True)]
        if not any(halved) or (sum(halved) == 1 and size[halved.index(True)] < 3 * SMALLEST_SIDE):
            kernels.append((3, 3, 3))
            break
        wide = [was or s < ANISOTROPY * min(spacing) for was, s in zip(wide, spacing, strict=True)]
        kernels.append(_triple(3 if w else 1 for w in wide))
        strides.append(_triple(2 if h else 1 for h in halved))
        size = [n // 2 if h else n for n, h in zip(size, halved, strict=True)]
        spacing = [s * 2 if h else s for s, h in zip(spacing, halved, strict=True)]
    widths = tuple(min(FIRST_WIDTH * 2**stage, LARGEST_WIDTH) for stage in range(len(strides)))
    return Plan(tuple(strides), tuple(kernels), widths)


class Baseline(nn.Module):
    """A network of a library behind the interface of `XLSTMUNet`."""

    def __init__(
        self,
        network: nn.Module,
        in_channels: int,
        strides_zyx: Sequence[Size],
        *,
        encoder_at: str | None = None,
        heads_at: tuple[str, ...] = (),
    ) -> None:
        """Wrap a network.

        Args:
            network: The library's.
            in_channels: Of the image.
            strides_zyx: Of its stages.
            encoder_at: What the names begin with of the weights that a pretraining gives; None for a network without.
            heads_at: What the names begin with of those that depend on the labels.
        """
        super().__init__()
        self.encoder_at, self.heads_at = encoder_at, heads_at
        self.network = network
        self.in_channels = in_channels
        self.strides_zyx = tuple(strides_zyx)
        z, y, x = (math.prod(axis) for axis in zip(*strides_zyx, strict=True))
        self.multiple_zyx: Size = (z, y, x)

    @property
    def input_weights(self) -> tuple[str, ...]:
        """Names of the convolutions that see as many channels as the image has: those that read it among them."""
        named = self.named_modules()
        return tuple(
            f"{name}.weight" for name, m in named if isinstance(m, nn.Conv3d) and m.in_channels == self.in_channels
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits (N, K, Z, Y, X): a list in training mode (coarser ones already up-sampled), one in evaluation."""
        outputs = self._outputs(x)
        return outputs if self.training else outputs[0]

    def finest(self, x: Tensor) -> Tensor:
        """The finest logits in either mode."""
        return self._outputs(x)[0]

    def _outputs(self, x: Tensor) -> list[Tensor]:
        """What the library gives: a list, one tensor that holds all stages (N, stages, K, Z, Y, X), or the finest."""
        found: Tensor | list[Tensor] = self.network(x)
        if isinstance(found, Tensor):
            return list(found.unbind(1)) if found.ndim == 6 else [found]
        return list(found)


def baseline(name: BaselineName, in_channels: int, out_channels: int, planned: Plan) -> Baseline:
    """3D-nnUNet (plain blocks, deep supervision), 3D-ResUNet (residual encoder, likewise), 3D-UNet (Çiçek et al. 2016).

    The 3D U-Net has four levels of plain convolutions with batch-independent normalisation, and no deep supervision.

    Args:
        name: Which of them.
        in_channels: Of the image.
        out_channels: Background among them.
        planned: Strides, kernels and widths of the stages.

    Returns:
        The network, with fresh weights.

    Raises:
        ValueError: The plan has too few stages.
    """
    stages = len(planned.widths)
    if stages < FEWEST_STAGES[name]:
        raise ValueError(f"expected sides that give {name} {FEWEST_STAGES[name]} stages or more and not {stages}")
    if name == "unet":
        strides: list[Size] = [(1, 1, 1), *planned.strides_zyx[1:4]]
        network: nn.Module = UNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=out_channels,
            channels=[64, 128, 256, 512][: len(strides)],
            strides=strides[1:],
            num_res_units=0,
        )
        return Baseline(network, in_channels, strides)
    network = DynUNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=list(planned.kernels_zyx),
        strides=list(planned.strides_zyx),
        upsample_kernel_size=list(planned.strides_zyx[1:]),
        filters=list(planned.widths),
        deep_supervision=True,
        deep_supr_num=max(1, len(planned.widths) - 3),
        res_block=name == "resunet",
    )
    return Baseline(network, in_channels, planned.strides_zyx)


def _triple(values: Iterable[int]) -> Size:
    z, y, x = values
    return z, y, x
