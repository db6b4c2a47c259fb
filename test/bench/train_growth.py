"""Pretraining as its volumes grow, and two processes against one.

Run as a script it is one pretraining, in a process that holds nothing else: `train_growth.py IMAGES RUN BATCH`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from heads import heads
from pipeline import TEST, Figures, peak_mib
from sections import Section, amount

RECIPE = TEST.parent / "training" / "configs" / "quickstart-pretrain.yaml"
VOLUMES = (10, 1000, 10_000)
STEPS = 5
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def measure() -> Iterator[Section]:
    """Steps of the README's pretraining, 32³ voxels, batch 2."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        yield volumes(folder)
        yield two_processes(folder)


def volumes(folder: Path) -> Section:
    """Processor time of opening (reading, preprocessing, keeping) and of a step."""
    found = {count: worker(images(folder / f"cases{count}", count), folder / f"run{count}", "2") for count in VOLUMES}
    least = VOLUMES[0]
    rows = []
    for count, it in found.items():
        opened = it["opened"] / count
        rows.append(
            (
                f"{count:,}",
                amount(it["opened"], "s"),
                amount(1e3 * opened, "ms"),
                f"{found[least]['opened'] / least / opened:.2f}",
                amount(it["cpu"], "s"),
                f"{found[least]['cpu'] / it['cpu']:.2f}",
                amount(it["peak"], "MiB"),
            )
        )
    columns = (
        "volumes", "opened", "a volume", f"of {least} / this", f"{STEPS} steps", f"with {least} / this", "peak memory",
    )  # fmt: skip
    note = (
        "The README's pretraining, batch 2, one thread, processor time; steps with one evaluation and checkpoint. "
        "32³ voxels a volume, gzipped, ten files under so many names."
    )
    return Section("Pretraining as the volumes on disk grow", columns, tuple(rows), note)


def two_processes(folder: Path) -> Section:
    """The same batch by one process, and by two with gloo."""
    ten = images(folder / "ddp", 10)
    one, two = worker(ten, folder / "one", "2"), worker(ten, folder / "two", "1", before=TORCHRUN)
    rows = tuple(
        (
            name,
            amount(it["wall"], "s"),
            f"{one['wall'] / it['wall']:.2f}",
            amount(parts * it["cpu"], "s"),
        )
        for name, it, parts in (("one process", one, 1), ("two processes, gloo", two, 2))
    )
    columns = ("", f"{STEPS} steps", "one process / this", "processor time of all processes")
    allowed = len(os.sched_getaffinity(0))
    note = f"The same steps, a batch of two in all; by the clock on {allowed} processors, one thread each."
    return Section("Pretraining by two processes", columns, rows, note)


def images(folder: Path, count: int) -> Path:
    """Of 32³ voxels."""
    return heads(folder, count, (32, 32, 32), 4.0)


def worker(folder: Path, run: Path, batch: str, *, before: Sequence[str] = ()) -> Figures:
    """What a pretraining says at its end; of several processes the last."""
    command = [sys.executable, *before, __file__, str(folder), str(run), batch]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=one_thread).stdout
    figures: Figures = json.loads(output.splitlines()[-1])
    return figures


def pretrain(folder: str, run: str, batch: str) -> Figures:
    """STEPS steps; what it took to open the volumes, and the rest."""
    from segsync_train.config.settings import load_settings
    from segsync_train.ssl.config import PretrainConfig
    from segsync_train.trainer import pretrain as module

    folders = f"data.folders=[{{folder: {folder}, layout: nnunet}}]"
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
    wall = time.monotonic() - ready[0]
    return {"opened": opened[0], "cpu": total - opened[0], "wall": wall, "peak": peak_mib()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(pretrain(*sys.argv[1:])) + "\n")
