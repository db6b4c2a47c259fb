"""Pretraining as its volumes grow, two processes against one, and threads beside a busy neighbour.

Run as a script it is one worker, in a process that holds nothing else.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pipeline import TEST, Figures
from sections import Section

RECIPE = TEST.parent / "training" / "configs" / "quickstart-pretrain.yaml"
VOLUMES = (10, 100, 1000, 10_000)
STEPS = 10
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
ROUNDS = 3


def measure() -> Iterator[Section]:
    """Steps of the README's pretraining, 32³ voxels, batch 2."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        yield volumes(folder)
        yield two_processes(folder)
    yield neighbour()


def volumes(folder: Path) -> Section:
    """Processor time of opening (reading, preprocessing, keeping) and of a step."""
    rows = []
    for count in VOLUMES:
        it = worker("pretrain", str(cases(folder / f"cases{count}", count)), str(folder / f"run{count}"), "2")
        opened, step = 1e3 * it["opened"] / count, it["cpu"] / STEPS
        rows.append((f"{count:,}", f"{it['opened']:.1f} s", f"{opened:.1f} ms", f"{step:.2f} s", f"{2 / step:.1f}"))
    columns = ("volumes", "opened", "a volume", "a step", "volumes a second")
    note = "Processor time of one thread; 32³ voxels a volume, gzipped, ten of them under as many names."
    return Section("Pretraining as the volumes on disk grow", columns, tuple(rows), note)


def two_processes(folder: Path) -> Section:
    """The same batch by one process, and by two with gloo."""
    images = str(cases(folder / "ddp", 10))
    one = worker("pretrain", images, str(folder / "one"), "2")
    two = worker("pretrain", images, str(folder / "two"), "1", before=TORCHRUN)
    rows = tuple(
        (name, f"{it['wall'] / STEPS:.2f} s", f"{parts * it['cpu'] / STEPS:.2f} s", f"{it['wall'] / one['wall']:.2f}")
        for name, it, parts in (("one process", one, 1), ("two processes, gloo", two, 2))
    )
    columns = ("", "a step", "processor time of a step, all processes", "ratio of times")
    allowed = len(os.sched_getaffinity(0))
    return Section("A batch of two by one process and by two", columns, rows, f"On {allowed} processor(s).")


def neighbour() -> Section:
    """Threads as they are chosen, and as many as the machine has processors; rounds in turn."""
    forms = {"as chosen": "0", "all processors": str(max(2, os.cpu_count() or 1))}
    found: dict[tuple[bool, str], list[Figures]] = {(busy, name): [] for busy in (False, True) for name in forms}
    for _ in range(ROUNDS):
        for busy in (False, True):
            beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
            try:
                for name, threads in forms.items():
                    found[busy, name].append(worker("step", threads))
            finally:
                for process in beside:
                    process.kill()
                    process.wait()
    rows = []
    for (busy, name), figures in found.items():
        window, step = (statistics.median(it[key] for it in figures) for key in ("window", "step"))
        threads = f"{name} ({figures[0]['threads']:.0f})"
        rows.append((threads, "one busy" if busy else "none", f"{window:.2f} s", f"{step:.2f} s"))
    allowed = len(os.sched_getaffinity(0))
    columns = ("threads", "neighbour", "a window of 64³", "a training step of 32³")
    return Section("Beside a busy neighbour", columns, tuple(rows), f"Time on the clock, on {allowed} processor(s).")


def cases(folder: Path, count: int) -> Path:
    """Heads of noise in nnU-Net's layout, ten of them under so many names."""
    (folder / "imagesTr").mkdir(parents=True)
    distance = np.linalg.norm(np.indices((32, 32, 32)) - 15.5, axis=0)
    for number in range(count):
        path = folder / "imagesTr" / f"case{number:05d}_0000.nii.gz"
        if number >= 10:
            path.symlink_to(f"case{number % 10:05d}_0000.nii.gz")
            continue
        noise = np.random.default_rng(number).standard_normal(distance.shape)
        image = sitk.GetImageFromArray(((distance < 14) * (400 + 60 * noise)).astype(np.int16))
        image.SetSpacing([4.0] * 3)
        sitk.WriteImage(image, str(path))
    return folder


def worker(*words: str, before: Sequence[str] = ()) -> Figures:
    """What a worker says at its end; of several processes the last."""
    command = [sys.executable, *before, __file__, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} if words[0] == "pretrain" else os.environ
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    figures: Figures = json.loads(output.splitlines()[-1])
    return figures


def pretrain(images: str, run: str, batch: str) -> Figures:
    """STEPS steps; what it took to open the volumes, and the rest."""
    from segsync_train.config.settings import load_settings
    from segsync_train.ssl.config import PretrainConfig
    from segsync_train.trainer import pretrain as module

    folders = f"data.folders=[{{folder: {images}, layout: nnunet}}]"
    changes = [folders, f"steps={STEPS}", f"batch={batch}", f"held_out.every={STEPS}", f"checkpoint_every={STEPS}"]
    config = load_settings(PretrainConfig, RECIPE, changes)
    opened, ready, inner = [0.0], [0.0], vars(module)["open_volumes"]

    def timed(*arguments: object) -> object:
        began = time.process_time()
        found: object = inner(*arguments)
        opened[0], ready[0] = time.process_time() - began, time.monotonic()
        return found

    vars(module)["open_volumes"] = timed
    began = time.process_time()
    module.pretrain(config, Path(run))
    total = time.process_time() - began
    return {"opened": opened[0], "cpu": total - opened[0], "wall": time.monotonic() - ready[0]}


def step(count: str) -> Figures:
    """A window in ONNX Runtime and a training step in torch; count: of threads, 0 for what is chosen."""
    import torch
    from networks import built
    from networks import step as train
    from pipeline import WEIGHTS

    from segsync.bundle import load_bundle
    from segsync.engine import open_engine
    from segsync.processor import choose_threads, threads

    choose_threads(int(count) or None)
    torch.set_num_threads(threads())
    engine, network = open_engine(load_bundle(WEIGHTS / "isles22"), "cpu"), built("tiny", (32, 32, 32))
    seconds: dict[str, list[float]] = {"window": [], "step": []}
    for _ in range(ROUNDS):
        began = time.monotonic()
        engine(np.zeros((1, 3, 64, 64, 64), np.float32))
        between = time.monotonic()
        train(network, (32, 32, 32), torch.device("cpu"))
        seconds["window"].append(between - began)
        seconds["step"].append(time.monotonic() - between)
    return {"threads": threads(), **{name: statistics.median(found) for name, found in seconds.items()}}


WORKERS: dict[str, Callable[..., Figures]] = {"pretrain": pretrain, "step": step}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(WORKERS[sys.argv[1]](*sys.argv[2:])) + "\n")
