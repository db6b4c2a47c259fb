"""What a challenge team waits for: an ensemble of five against five single networks, and planning 250 cases.

Run as a script it is one of the workers, in a process that holds nothing else: `teams.py ensemble|single|plan FOLDER`.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pipeline import WEIGHTS, Figures, channels, peak_mib
from sections import Section

from segsync.bundle import MODEL_FILE, SPEC_FILE, load_bundle_spec

ROUNDS, NETWORKS, CASES = 3, 5, 250
#: A head at 2 mm, as wide as ATLAS's.
SIZE_ZYX, SPACING_MM = (95, 116, 98), 2.0


def measure() -> Iterator[Section]:
    """Rounds of both in turn, each in a process of its own; medians. The plan is made once."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        weights = {"ensemble": _weights(folder / "ensemble", NETWORKS), "single": _weights(folder / "single", 1)}
        found: dict[str, list[Figures]] = {name: [] for name in weights}
        for _ in range(ROUNDS):
            for name, place in weights.items():
                found[name].append(_run(name, place))
        middle = {
            name: {key: statistics.median(one[key] for one in figures) for key in figures[0]}
            for name, figures in found.items()
        }
        rows = []
        for key, title, unit, times in (("case", "one case", "s", NETWORKS), ("peak", "peak memory", "MiB", 1)):
            together, alone = middle["ensemble"][key], middle["single"][key]
            ratio = together / (times * alone)
            rows.append((title, f"{together:.2f} {unit}", f"{alone:.2f} {unit}", f"{ratio:.2f}"))
        yield Section(
            "An ensemble of five, on a CPU",
            ("", "five networks averaged", "one network", "ensemble / (5 × one) in time, / one in memory"),
            tuple(rows),
            "The bundled case with the isles22 network, five times the same, without mirroring; the mask is the same.",
        )
        planned = _run("plan", _cases(folder / "cases"))
        yield Section(
            "Planning, on a CPU",
            ("", ""),
            (
                ("`plan` for 250 cases of 2 mm", f"{planned['seconds']:.0f} s"),
                ("peak memory", f"{planned['peak']:.0f} MiB"),
            ),
            f"{' × '.join(map(str, SIZE_ZYX))} voxels, one channel, gzipped; two cases read at once.",
        )


def _run(name: str, folder: Path) -> Figures:
    command = [sys.executable, __file__, name, str(folder)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    figures: Figures = json.loads(output.splitlines()[-1])
    return figures


def _weights(folder: Path, networks: int) -> Path:
    """The shipped isles22 network so many times."""
    folder.mkdir()
    spec = load_bundle_spec(WEIGHTS / "isles22")
    names = [MODEL_FILE, *(f"model-{number}.onnx" for number in range(2, networks + 1))]
    for name in names:
        shutil.copy(WEIGHTS / "isles22" / MODEL_FILE, folder / name)
    changed = spec.model_copy(update={"further_networks": dict.fromkeys(names[1:], spec.sha256)})
    (folder / SPEC_FILE).write_text(changed.model_dump_json())
    return folder


def _cases(folder: Path) -> Path:
    """Heads of noise with a lesion each, ten of them under 250 names."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    distance = np.linalg.norm(np.indices(SIZE_ZYX) - np.array(SIZE_ZYX)[:, None, None, None] / 2, axis=0)
    for number in range(CASES):
        paths = {"imagesTr": f"case{number:03d}_0000.nii.gz", "labelsTr": f"case{number:03d}.nii.gz"}
        for part, name in paths.items():
            if number >= 10:
                (folder / part / name).symlink_to(name.replace(f"{number:03d}", f"{number % 10:03d}"))
                continue
            rng = np.random.default_rng(number)
            head = (distance < 45) * (400 + 60 * rng.standard_normal(SIZE_ZYX))
            array = head.astype(np.int16) if part == "imagesTr" else (distance < 2 + number).astype(np.uint8)
            image = sitk.GetImageFromArray(array)
            image.SetSpacing([SPACING_MM] * 3)
            sitk.WriteImage(image, str(folder / part / name))
    return folder


def predict(folder: Path) -> Figures:
    """The bundled case, network ready."""
    import segsync
    from segsync.predict import Settings

    model = segsync.load("isles22", weights=folder, device="cpu")
    model.predict(channels(), Settings(tta="none"))
    began = time.monotonic()
    model.predict(channels(), Settings(tta="none"))
    return {"case": time.monotonic() - began, "peak": peak_mib()}


def plan(folder: Path) -> Figures:
    """Settings and page of a folder."""
    from segsync_train.planning.plan import plan as make

    began = time.monotonic()
    make(folder, folder / "settings.yaml", device="cpu", memory="8GB")
    return {"seconds": time.monotonic() - began, "peak": peak_mib()}


WORKERS = {"ensemble": predict, "single": predict, "plan": plan}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(WORKERS[sys.argv[1]](Path(sys.argv[2]))) + "\n")
