"""A training step of networks at one patch: the xLSTM-UNet here and as published, and nnU-Net's own."""

import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
from mlstm import now
from sections import Section

from segsync_train.config.run import LossConfig, RunConfig
from segsync_train.networks import SegmentationNetwork
from segsync_train.networks.build import build_network
from segsync_train.trainer.losses import SegmentationLoss

ROUNDS = 3
#: What a GPU trains, and what two cores do in seconds; the six stages of the published network ask for 64 or more.
PATCHES = {"cuda": (128, 128, 128), "cpu": (64, 64, 64)}
NAMES = {
    "default": "xLSTM-UNet (here, both directions)",
    "enc": "xLSTM-UNet-Enc (here)",
    "published-enc": "xLSTM-UNet-Enc (published)",
    "published-bot": "xLSTM-UNet-Bot (published)",
    "resenc-l": "ResEnc-L (nnU-Net's library)",
    "plainconv": "PlainConvUNet (nnU-Net's library)",
}
#: Six stages for all, whatever the patch.
STAGES = {"strides_zyx": [[1, 1, 1], *[[2, 2, 2]] * 5]}


def measure() -> Iterator[Section]:
    """Forward, loss and backward of one patch in float32; medians of rounds in turn."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    patch = PATCHES[device.type]
    networks = {name: built(name, patch).to(device) for name in NAMES}
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    for round_ in range(ROUNDS + 1):
        for name, network in networks.items():
            began = now(device)
            step(network, patch, device)
            if round_:  # the first warms up
                seconds[name].append(now(device) - began)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    rows = [
        (
            NAMES[name],
            f"{sum(p.numel() for p in networks[name].parameters()) / 1e6:.2f}",
            f"{median:.3g} s",
            f"{median / medians['default']:.2f}",
        )
        for name, median in medians.items()
    ]
    title = f"A training step of one patch of {patch[0]}³, float32, {device}"
    yield Section(title, ("network", "parameters 10⁶", "time", "ratio to the first"), tuple(rows))


def built(name: str, patch: tuple[int, int, int]) -> SegmentationNetwork:
    """A network of six stages, one channel and one label, in training mode."""
    overrides = STAGES if name in ("resenc-l", "plainconv") else {}
    settings = {
        "name": name, "task": "bench", "data": {"kind": "folder", "folder": Path()}, "labels": {1: "label"},
        "channels": [{"name": "image", "normalisation": {"kind": "zscore"}}], "spacing_zyx": (1, 1, 1),
        "patch_zyx": patch, "network": {"preset": name, "overrides": overrides}, "steps": 1,
    }  # fmt: skip
    return build_network(RunConfig.model_validate(settings)).train()


def step(network: SegmentationNetwork, patch: tuple[int, int, int], device: torch.device) -> None:
    """Forward, loss and backward, on noise."""
    target = torch.randint(0, 2, (1, *patch), device=device)
    SegmentationLoss(LossConfig())(network(torch.randn(1, 1, *patch, device=device)), target).backward()
    network.zero_grad(set_to_none=True)
