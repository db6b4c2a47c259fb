"""How much memory a training step takes, found without computing anything: shapes alone go through the network."""

import math
import re
from dataclasses import dataclass

import torch

# Only shapes are followed: no weight and no map exists.
from torch._subclasses.fake_tensor import FakeTensorMode

from segsync.arrays import SizeZYX
from segsync.errors import InputError
from segsync_train.config.training import NetworkSettings
from segsync_train.networks import SegmentationNetwork
from segsync_train.networks.build import build_network

#: Bytes of the program itself, its libraries (CUDA's too) and the cases that patches are cut from.
BASE = 1.2e9
#: What the allocator and the convolutions' workspaces add to what is kept.
OVERHEAD = 1.2
#: Arrays of the logits' size, in 32 bits, that the loss keeps: softmax, its logarithm, target, their products.
LOSS_COPIES = 6
#: Bytes for each weight: itself, its gradient, two moments of the optimiser, the running mean.
BYTES_A_WEIGHT = 20

#: Voxels along a side of the patch that is followed.
PROBE = 48

SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:G|GB|GIB)?\s*", re.IGNORECASE)


def parse_memory(text: str) -> float:
    """`11GB` or `11` in bytes (10⁹ a GB); raises InputError."""
    found = SIZE.fullmatch(text)
    if found is None or float(found[1]) <= 0:
        raise InputError(f"--memory: expected gigabytes, as in 11GB, found {text!r}")
    return float(found[1]) * 1e9


@dataclass(frozen=True)
class Need:
    """Bytes that training holds at its peak: whatever the batch is, and for each patch in it."""

    fixed: float
    patch: float

    def of(self, batch: int) -> float:
        """Bytes for a batch."""
        return self.fixed + batch * self.patch


def training_memory(config: NetworkSettings, *, half: bool) -> Need:
    """What a training step of these settings holds at its peak, estimated.

    What the backward pass needs is counted tensor by tensor while shapes go through the network; the loss's arrays,
    gradients of the largest map, weights, optimiser and a fixed amount for the program are added. Maps grow with the
    patch, so that one small patch is followed and the rest is multiplied (but for networks that know one size alone).

    Args:
        config: The settings of the network and its patch.
        half: Whether maps are kept in 16 bits (mixed precision on a GPU).

    Returns:
        The estimate.

    Raises:
        InputError: The network cannot be built for the patch.
    """
    network = build_network(config).train()
    weights = sum(parameter.numel() for parameter in network.parameters())
    whole = config.network.preset in ("swinunetr", "unetr", "published-enc")
    sides = config.patch_zyx if whole else _probe(config.patch_zyx, network.multiple_zyx)
    times = math.prod(config.patch_zyx) / math.prod(sides)
    return Need(BASE + BYTES_A_WEIGHT * weights, OVERHEAD * _maps(network, sides, half=half) * times)


def _probe(patch: SizeZYX, multiple: SizeZYX) -> SizeZYX:
    """A small patch that the network takes."""
    z, y, x = (min(side, max(2 * step, PROBE // step * step)) for side, step in zip(patch, multiple, strict=True))
    return z, y, x


def _maps(network: SegmentationNetwork, sides: SizeZYX, *, half: bool) -> float:
    """Bytes of the maps, the loss's arrays and the largest gradients for one patch."""
    kept: dict[int, int] = {}  # by the storage's address: the graph holds all of them until the end

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[int(storage._cdata)] = storage.nbytes()
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True):
        image = torch.empty(1, network.in_channels, *sides)
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=half),
        ):
            found = network(image)
        outputs = found if isinstance(found, list) else [found]
        logits = 4.0 * sum(output.numel() for output in outputs)
        return float(sum(kept.values()) + 2 * max(kept.values()) + LOSS_COPIES * logits)


def too_small(text: str, least: float) -> InputError:
    """The error for a memory that no patch fits into."""
    return InputError(
        f"--memory: expected at least {least / 1e9:.1f} GB, which the smallest patch needs, found {text}; give more, "
        "or a smaller --network"
    )
