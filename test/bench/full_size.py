"""Networks of the published size: the xLSTM-UNet here against the published code's, forward and with backward.

Run as a script it is one network in a process that holds nothing else: `full_size.py NAME SIDE`.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from mlstm import parallel
from networks import NAMES, built
from pipeline import Figures
from sections import Section
from torch import Tensor

from segsync.memory import peak_bytes, reset_peak, resident_bytes
from segsync_train.config.run import LossConfig
from segsync_train.networks import published
from segsync_train.trainer.losses import SegmentationLoss

SIDE = 96
NAMED = NAMES | {"bot": "xLSTM-UNet-Bot (here)"}
PAIRS = (("enc", "published-enc"), ("bot", "published-bot"))
PASSES = {"forward": "forward", "both": "forward, loss and backward"}


def measure() -> Iterator[Section]:
    """Each network in a process of its own, one after the other."""
    rows: list[tuple[str, ...]] = []
    for pair in PAIRS:
        ours, theirs = (_run(name) for name in pair)
        for key, title in PASSES.items():
            seconds, mib = (ours[f"{key}, {unit}"] / theirs[f"{key}, {unit}"] for unit in ("s", "MiB"))
            cells = [f"{it[f'{key}, s']:.1f} s, {it[f'{key}, MiB']:.0f} MiB" for it in (ours, theirs)]
            rows.append((NAMED[pair[0]].removesuffix(" (here)"), title, *cells, f"{seconds:.2f}", f"{mib:.2f}"))
    yield Section(
        f"Networks of the published size, one patch of {SIDE}³, float32, one thread",
        ("network", "", "here", "as published", "here / published: time", "memory"),
        tuple(rows),
        "Processor time, and peak memory above what the process held with its network. The published code is "
        "`networks/published.py`, which computes the same, with the quadratic mLSTM and the order of up-sampling and "
        "convolution that the authors' code has. Here channels lie last, as in training.",
    )


def worker(name: str, side: int) -> Figures:
    """Processor time and memory of one network, once for each pass."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = built(name, (side,) * 3)
    image = torch.randn(1, 1, side, side, side)
    target = torch.randint(0, 2, (1, side, side, side))
    if name.startswith("published"):
        vars(published)["mlstm_chunkwise"] = parallel
        published._Upsample.forward = _grown_first  # type: ignore[method-assign]
    else:
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        image = image.to(memory_format=torch.channels_last_3d)

    def forward() -> None:
        with torch.inference_mode():
            network.finest(image)

    def both() -> None:
        SegmentationLoss(LossConfig())(network.train()(image), target).backward()

    found: Figures = {}
    for key, run in {"forward": forward, "both": both}.items():
        held = resident_bytes()
        reset_peak()
        began = time.process_time()
        run()
        found |= {f"{key}, s": time.process_time() - began, f"{key}, MiB": (peak_bytes() - held) / 2**20}
    return found


def _grown_first(self: published._Upsample, x: Tensor) -> Tensor:
    """As the authors' code has it: the convolution sees the larger map."""
    grown: Tensor = self.conv(F.interpolate(x, scale_factor=self.scale, mode="nearest"))
    return grown


def _run(name: str) -> Figures:
    command = [sys.executable, __file__, name, str(SIDE)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    figures: Figures = json.loads(output.splitlines()[-1])
    return figures


if __name__ == "__main__":
    sys.stdout.write(json.dumps(worker(sys.argv[1], int(sys.argv[2]))) + "\n")
