"""The bundled case from files to mask: this program against MONAI's sliding window with the network in torch.

Run as a script it is one of the two, in a process that holds nothing else: `pipeline.py ours|peer WEIGHTS`.
"""

import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sections import Pair, Section, compared

TEST = Path(__file__).parents[1]
WEIGHTS = TEST.parent / "weights"
IMAGES = TEST / "input" / "images"
ROUNDS = 3

Figures = dict[str, float]


def measure() -> Iterator[Section]:
    """Rounds of both in turn, each in a process of its own; medians."""
    from bundles import one_network

    found: dict[str, list[Figures]] = {name: [] for name in WORKERS}
    with one_network() as weights:
        for _ in range(ROUNDS):
            for name, figures in found.items():
                command = [sys.executable, __file__, name, str(weights)]
                began = time.monotonic()
                output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                figures.append({"process": time.monotonic() - began, **json.loads(output.splitlines()[-1])})
    middle = {
        name: {key: statistics.median(round_[key] for round_ in figures) for key in figures[0]}
        for name, figures in found.items()
    }
    pairs = [
        Pair(title, "MONAI with torch", middle["ours"][key], middle["peer"][key], unit)
        for key, title, unit in (
            ("process", "whole process, from its start to the mask", "s"),
            ("processor", "the same in processor time", "s"),
            ("case", "one case, network ready", "s"),
            ("window", "one window", "s"),
            ("windows", "windows computed", ""),
            ("peak", "peak memory", "MiB"),
        )
    ]
    note = (
        "The peer is MONAI's SlidingWindowInferer with the network in torch, float32; both with a single one of the "
        "shipped networks, overlap 0.5, no mirroring, windows of the same size, by the clock. segsync leaves out "
        "windows that hold no brain. MONAI imports what else it finds installed, and this environment holds much: it "
        "starts later here than alone."
    )
    yield compared("The bundled case, on a CPU", pairs, note)


def ours(weights: Path) -> Figures:
    """`import segsync`, load, predict, as README shows."""
    import segsync
    from segsync.predict import Settings

    model = segsync.load("isles22", weights=weights, device="cpu")
    ready = time.monotonic()
    result = model.predict(channels(), Settings(tta="none"))
    return {
        "case": time.monotonic() - ready,
        "window": result.seconds["network"] / result.statistics.windows,
        "windows": result.statistics.windows,
        "processor": time.process_time(),
        "peak": peak_mib(),
    }


def peer(weights: Path) -> Figures:
    """The same reading, preprocessing and way back; windows by MONAI, the network in torch."""
    import torch
    from monai.inferers import SlidingWindowInferer
    from shipped import shipped_network

    from segsync.bundle import load_bundle_spec
    from segsync.images import read
    from segsync.postprocess import labels_on
    from segsync.preprocess import prepare

    spec = load_bundle_spec(weights)
    network = shipped_network()
    inferer = SlidingWindowInferer(spec.patch_zyx, sw_batch_size=1, overlap=0.5, mode="gaussian")
    ready = time.monotonic()
    with torch.inference_mode():
        images = {name: read(path) for name, path in channels().items()}
        prepared = prepare(images.get, spec, "dwi")
        counted, slid = itertools.count(), time.monotonic()
        probabilities = inferer(torch.from_numpy(prepared.array)[None], lambda x: (next(counted), network(x))[1])
        seconds, windows = time.monotonic() - slid, next(counted)
    labels_on(probabilities.softmax(1)[0, 1:].numpy(), prepared.grid, images["dwi"].grid, spec)
    return {
        "case": time.monotonic() - ready,
        "window": seconds / windows,
        "windows": windows,
        "processor": time.process_time(),
        "peak": peak_mib(),
    }


def channels() -> dict[str, Path]:
    """The bundled case's files."""
    return {name: next((IMAGES / f"{name}-brain-mri").glob("*.mha")) for name in ("dwi", "adc", "flair")}


def peak_mib() -> float:
    """Largest resident memory of this process."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


WORKERS = {"ours": ours, "peer": peer}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(WORKERS[sys.argv[1]](Path(sys.argv[2]))) + "\n")
