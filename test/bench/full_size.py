"""Networks of the published size: the xLSTM-UNet here against the published code's, forward and with backward.

Run as a script it is one network in a process that holds nothing else: `full_size.py NAME SIDE float32|bfloat16`.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import torch
from networks import NAMES, PUBLISHED, built, layout
from pipeline import Figures
from sections import Pair, Section, compared

from segsync.memory import peak_bytes, reset_peak, resident_bytes
from segsync_train.config.run import LossConfig
from segsync_train.runs.devices import autocast
from segsync_train.trainer.losses import SegmentationLoss

SIDE = 96
PEERS = {"enc": "published-enc", "bot": "published-bot"}
PASSES = {"forward": "forward", "both": "forward, loss and backward"}
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}


def measure() -> Iterator[Section]:
    """Each network in a process of its own, one after the other."""
    for dtype in DTYPES:
        pairs = []
        for name, peer in PEERS.items():
            ours, theirs = _run(name, dtype), _run(peer, dtype)
            pairs += [
                Pair(f"{NAMES[name]}, {title}{said}", "the published code", ours[key + unit], theirs[key + unit], unit)
                for key, title in PASSES.items()
                for unit, said in (("s", ""), ("MiB", ", memory"))
            ]
        note = (
            f"One patch of {SIDE}³, one thread, one run of each: processor time, and peak memory above what the "
            f"process held with its network. {PUBLISHED} Here channels lie last, as in training."
        )
        yield compared(f"Networks of the published size, {dtype}", pairs, note)


def worker(name: str, side: int, dtype: torch.dtype | None) -> Figures:
    """Processor time and memory of one network, once for each pass."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = built(name, (side,) * 3)
    image = torch.randn(1, 1, side, side, side).to(memory_format=layout(network))
    target = torch.randint(0, 2, (1, side, side, side))

    def forward() -> None:
        with torch.inference_mode(), autocast(dtype, image.device):
            network.finest(image)

    def both() -> None:
        with autocast(dtype, image.device):
            outputs = network.train()(image)
        SegmentationLoss(LossConfig())(outputs, target).backward()

    found: Figures = {}
    for key, run in {"forward": forward, "both": both}.items():
        held = resident_bytes()
        reset_peak()
        began = time.process_time()
        run()
        found |= {f"{key}s": time.process_time() - began, f"{key}MiB": (peak_bytes() - held) / 2**20}
    return found


def _run(name: str, dtype: str) -> Figures:
    command = [sys.executable, __file__, name, str(SIDE), dtype]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    figures: Figures = json.loads(output.splitlines()[-1])
    return figures


if __name__ == "__main__":
    sys.stdout.write(json.dumps(worker(sys.argv[1], int(sys.argv[2]), DTYPES[sys.argv[3]])) + "\n")
