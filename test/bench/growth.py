"""How time and memory grow with voxels, cases and processes, and a CT of 512×512×400 voxels from its file to its mask.

The network is the one shipped for isles26 (one channel), as weights for CT. Run as a script it is one process that
holds nothing else: `growth.py segsync …` is the command line, `growth.py peer WEIGHTS CT` MONAI and torch.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from bundles import of_shipped
from pipeline import Figures, peak_mib
from sections import Pair, Section, amount, compared

from segsync.arrays import SizeZYX
from segsync.bundle import ChannelSpec, Fixed, load_bundle_spec

TASK = "bench-ct"
CT_ZYX, CT_MM = (400, 512, 512), (1.0, 0.45, 0.45)
#: Windows overlap less than by default, by a quarter: memory is the same, and it takes half as long.
OVERLAP = 0.25
SIDES = (64, 128, 256, 512)
#: The largest that MONAI's sliding window segments as well.
PEERS_SIDE = 256
CASES = (1, 8, 64)
PROCESSES = (1, 2, 4, 8)


def large() -> Iterator[Section]:
    """A CT on half its resolution in each direction."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        weights = bundle(folder / "large", tuple(2 * mm for mm in CT_MM))
        path = ct(folder / "ct" / "ct.nii", CT_ZYX, CT_MM)
        ours = predict(weights, path.parent, folder / "out", "--overlap", str(OVERLAP), "--max-memory", "2")
        theirs = run("peer", str(weights), str(path))
    note = (
        f"From file to mask, on a grid of 200×256×256, overlap {OVERLAP}, no mirroring, one thread, one run of each; "
        "segsync has `--max-memory 2`, and writes the mask as well. No window of this CT is empty."
    )
    pairs = [
        Pair("processor time", "MONAI with torch", ours["s"], theirs["s"]),
        Pair("peak memory", "MONAI with torch", ours["MiB"], theirs["MiB"], "MiB"),
    ]
    yield compared("A CT of 512×512×400 voxels", pairs, note)


def folders() -> Iterator[Section]:
    """Processor time of one thread."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundle(folder / "cubes", (2.0, 2.0, 2.0))
        yield voxels(folder)
        yield cases(folder)
        yield processes(folder)


def voxels(folder: Path) -> Section:
    """Cubes on half their resolution."""
    weights = folder / "cubes"
    rows, pairs = [], []
    for side in SIDES:
        path = ct(folder / f"cube{side}" / "ct.nii", (side,) * 3, (1.0, 1.0, 1.0))
        it = predict(weights, path.parent, folder / "out", "--overlap", str(OVERLAP))
        row = [f"{side}³", amount(it["s"], "s"), amount(1e6 * it["s"] / side**3, "s"), amount(it["MiB"], "MiB")]
        if side <= PEERS_SIDE:
            peer = run("peer", str(weights), str(path))
            both = [
                Pair(f"{side}³ voxels{said}", "MONAI with torch", it[unit], peer[unit], unit)
                for unit, said in (("s", ""), ("MiB", ", memory"))
            ]
            row += [amount(peer["s"], "s"), *(f"{pair.ratio:.2f}" for pair in both)]
            pairs += both
        rows.append(tuple([*row, "", "", ""][:7]))
    columns = (
        "voxels", "processor time, with the start", "a million voxels", "peak memory", "MONAI with torch",
        "peer / segsync in time", "in memory",
    )  # fmt: skip
    note = (
        f"CTs from file to mask, on half their resolution, overlap {OVERLAP}, no mirroring, one thread, one run each."
    )
    return Section("Growth with voxels", columns, tuple(rows), note, tuple(pairs))


def cases(folder: Path) -> Section:
    """Cases of one window each in a folder, one command."""
    weights = folder / "cubes"
    spent = {count: predict(weights, several(folder / f"cases{count}", count), folder / "out") for count in CASES}
    rows = tuple(
        (
            str(count),
            amount(it["s"], "s"),
            amount(it["s"] / count, "s"),
            f"{count * spent[1]['s'] / it['s']:.2f}",
            amount(it["MiB"], "MiB"),
        )
        for count, it in spent.items()
    )
    columns = ("cases", "processor time, with the start", "a case", "a command for each / one for all", "peak memory")
    note = "CTs of 64³ voxels, one window each, one thread."
    return Section("Growth with cases in a folder", columns, rows, note)


def processes(folder: Path) -> Section:
    """As `xargs --max-procs` starts them: every process takes an equal part of eight cases."""
    found = {}
    for count in PROCESSES:
        began = time.monotonic()
        running = [
            start(*words(folder / "cubes", several(folder / f"part{count}-{part}", 8 // count), folder / f"out{part}"))
            for part in range(count)
        ]
        ended = [figures(process) for process in running]
        wall = time.monotonic() - began
        found[count] = (wall, *(sum(it[key] for it in ended) for key in ("s", "MiB")))
    rows = tuple(
        (
            str(count),
            amount(wall, "s"),
            f"{found[1][0] / wall:.2f}",
            amount(total, "s"),
            f"{found[1][1] / total:.2f}",
            amount(mib, "MiB"),
        )
        for count, (wall, total, mib) in found.items()
    )
    columns = (
        "processes", "until the last ended", "one / these", "processor time of all", "one / these", "memory of all",
    )  # fmt: skip
    allowed = len(os.sched_getaffinity(0))
    note = f"Each takes an equal part, with one thread; by the clock on {allowed} processors."
    return Section("Eight such cases by several processes", columns, rows, note)


def bundle(folder: Path, spacing_zyx: Sequence[float]) -> Path:
    """The isles26 network as weights for CT at a spacing in mm."""
    channel = ChannelSpec(name="ct", normalisation=Fixed(low=-100, high=200, mean=40, std=40))
    spacing = tuple(spacing_zyx)
    return of_shipped(folder, "isles26", channels=(channel,), spacing_zyx=spacing, task=TASK, region_model=None)


def ct(path: Path, size_zyx: SizeZYX, spacing_zyx: Sequence[float]) -> Path:
    """An upright cylinder of noise in air, int16, not compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(0).integers(0, 80, size_zyx, dtype=np.int16)
    y, x = (np.arange(side) / side - 0.5 for side in size_zyx[1:])
    array[:, np.hypot(y[:, None], x) > 0.45] = -1000
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(mm) for mm in spacing_zyx[::-1]])
    sitk.WriteImage(image, str(path))
    return path


def several(folder: Path, count: int) -> Path:
    """So many cases of 64³ voxels."""
    for number in range(count):
        ct(folder / f"case{number:03d}" / "ct.nii", (64,) * 3, (1.0, 1.0, 1.0))
    return folder


def words(weights: Path, images: Path, output: Path, *options: str) -> list[str]:
    """The command line of a prediction."""
    output = output / images.name
    fixed = ["--task", TASK, "--weights", str(weights), "--tta", "none", "--threads", "1", "--device", "cpu"]
    return ["segsync", "predict", "-i", str(images), "-o", str(output), *fixed, *options]


def predict(weights: Path, images: Path, output: Path, *options: str) -> Figures:
    """Processor time and peak memory of the command."""
    return run(*words(weights, images, output, *options))


def run(*command: str) -> Figures:
    """One worker, from its start to its end."""
    return figures(start(*command))


def start(*command: str) -> "subprocess.Popen[str]":
    """A worker."""
    line = [sys.executable, __file__, *command]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def figures(process: "subprocess.Popen[str]") -> Figures:
    """What a worker says at its end."""
    output, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a worker ended with {process.returncode}: {said[-1000:]}")
    found: Figures = json.loads(output.splitlines()[-1])
    return found


def segsync() -> None:
    """The command line itself."""
    from segsync.cli import main

    try:
        main()
    except SystemExit as end:
        if end.code:
            raise


def peer() -> None:
    """The same reading, preprocessing and way back; windows by MONAI, the network in torch."""
    import torch
    from monai.inferers import SlidingWindowInferer
    from shipped import shipped_network

    from segsync.images import read
    from segsync.postprocess import labels_on
    from segsync.preprocess import prepare

    torch.set_num_threads(1)
    spec = load_bundle_spec(Path(sys.argv[1]))
    network = shipped_network("isles26")
    inferer = SlidingWindowInferer(spec.patch_zyx, sw_batch_size=1, overlap=OVERLAP, mode="gaussian")
    image = read(Path(sys.argv[2]))
    with torch.inference_mode():
        prepared = prepare({"ct": image}.get, spec, "ct")
        probabilities = inferer(torch.from_numpy(prepared.array)[None], network)
    labels_on(probabilities.softmax(1)[0, 1:].numpy(), prepared.grid, image.grid, spec)


if __name__ == "__main__":
    name = sys.argv.pop(1)
    {"segsync": segsync, "peer": peer}[name]()
    sys.stdout.write(json.dumps({"s": time.process_time(), "MiB": peak_mib()}) + "\n")
