"""nnU-Net's own predictor, in an environment that this builds, with the very network that segsync runs.

Run as a script it is one of the two, in a process that holds nothing else: `nnunet_predictor.py ours|nnunet FOLDER`.
The one of nnU-Net knows its package and torch alone.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from sections import Pair, Section, compared

ROUNDS, SIDE, OVERLAP = 3, 64, 0.5


def measure() -> Iterator[Section]:
    """The bundled case's normalised array to probabilities; rounds in turn, each in a process of its own; medians."""
    from environments import NNUNET
    from environments import nnunet as environment

    pythons = {"ours": sys.executable, "nnunet": str(environment())}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder))
        for _ in range(ROUNDS):
            for name, python in pythons.items():
                command = [python, __file__, name, folder]
                output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                found[name].append(json.loads(output.splitlines()[-1]))
    ours, theirs = (
        {key: statistics.median(one[key] for one in figures) for key in figures[0]} for figures in found.values()
    )
    pairs = [
        Pair(title, "nnU-Net's predictor", ours[key], theirs[key], unit)
        for key, title, unit in (
            ("s", "array to probabilities, processor time", "s"),
            ("a window", "a window, processor time", "s"),
            ("windows", "windows computed", ""),
            ("MiB", "peak memory", "MiB"),
        )
    ]
    note = (
        f"The isles22 network and the bundled case for both, one thread, overlap {OVERLAP}, no mirroring; {NNUNET}. "
        "segsync leaves out windows that hold no brain."
    )
    yield compared("The bundled case by nnU-Net's predictor", pairs, note)


def _write(folder: Path) -> None:
    """What both read: the normalised array and its brain, and the network as TorchScript for nnU-Net's environment."""
    from pipeline import WEIGHTS, channels
    from shipped import traced

    from segsync.bundle import load_bundle_spec
    from segsync.images import read
    from segsync.preprocess import prepare

    prepared = prepare(
        {name: read(path) for name, path in channels().items()}.get, load_bundle_spec(WEIGHTS / "isles22"), "dwi"
    )
    np.save(folder / "array.npy", prepared.array)
    np.save(folder / "tissue.npy", prepared.tissue)
    traced(folder / "network.pt")


def ours(folder: Path) -> dict[str, float]:
    """segsync's windows and ONNX Runtime."""
    from bundles import one_network

    from segsync.bundle import load_bundle
    from segsync.engine import open_engine
    from segsync.processor import choose_threads
    from segsync.sliding_window import Windows, predict

    choose_threads(1)
    with one_network() as weights:
        bundle = load_bundle(weights)
        engine = open_engine(bundle, "cpu")
    array, tissue = np.load(folder / "array.npy"), np.load(folder / "tissue.npy")
    windows = Windows(bundle.spec.patch_zyx, bundle.spec.multiple_zyx, OVERLAP)
    engine.warm_up(bundle.spec.patch_zyx)
    began = time.process_time()
    _, done = predict(array, engine, len(bundle.spec.labels), windows, tissue=tissue)
    return {"s": time.process_time() - began, "windows": done.windows}


def nnunet(folder: Path) -> dict[str, float]:
    """nnU-Net's windows and torch; its plans are no more than the window's size and the number of outputs."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    torch.set_num_threads(1)
    predictor = nnUNetPredictor(
        tile_step_size=1 - OVERLAP, use_mirroring=False, perform_everything_on_device=False,
        device=torch.device("cpu"), allow_tqdm=False,
    )  # fmt: skip
    network, counted = torch.jit.load(str(folder / "network.pt")).eval(), [0]  # type: ignore[no-untyped-call]

    class Counting(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            counted[0] += 1
            logits: torch.Tensor = network(x)
            return logits

    predictor.network = Counting()
    predictor.configuration_manager = SimpleNamespace(patch_size=(SIDE, SIDE, SIDE))
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=2)
    array = torch.from_numpy(np.load(folder / "array.npy"))
    with torch.inference_mode():
        network(torch.zeros(1, len(array), SIDE, SIDE, SIDE))
        began = time.process_time()
        predictor.predict_sliding_window_return_logits(array).float().softmax(0)
    return {"s": time.process_time() - began, "windows": counted[0]}


if __name__ == "__main__":
    figures = {"ours": ours, "nnunet": nnunet}[sys.argv[1]](Path(sys.argv[2]))
    figures["a window"] = figures["s"] / figures["windows"]
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    sys.stdout.write(json.dumps({**figures, "MiB": int(peak.split()[1]) / 1024}) + "\n")
