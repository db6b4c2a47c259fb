"""Writes synthesis.md and its pictures: `make synthesis-pictures`. Twenty samples a task, and a real isles22 case."""

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from segsync.arrays import Array
from segsync.drawing import COLOURS, draw_slice, grey_window
from segsync.geometry import resample, respaced
from segsync.images import read
from segsync_train.config.data import SyntheticData
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import load_settings
from segsync_train.runs.folder import commit
from segsync_train.synthesis import CHANNELS, Generator, SynthesisConfig, SynthesisSources, load_sources

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CASE = ROOT / "test" / "input" / "images"
SAMPLES = 20
SPACING_MM = 2.0
ACROSS = 3
#: Grey windows of what has physical units; other channels run from zero to their 99.7th percentile.
WINDOWS = {
    "adc": (0, 3000), "ncct": (0, 80), "ct": (0, 80), "cta": (0, 400), "tmax": (0, 15), "cbf": (0, 80),
    "cbv": (0, 8), "mtt": (0, 15),
}  # fmt: skip
HEAD = """# What the networks learn from

Written by `make synthesis-pictures` (commit {commit}). Drawn by the generator of `segsync-train synthesize` from an
anatomical label map and real lesion masks, with the settings and the spacing of each task's recipe
([training/configs](../../training/configs), `isles26` with the defaults); seeds 0 to {last}, none left out. The first
of `isles22` alone is a real patient, the bundled one, to compare with. Axial slices through most of the lesion, which
is outlined in orange (for `brain` and `brain-ct`, the brain); samples without a lesion show the middle of the brain. A
missing channel is black. The patient's left is on the right.
"""


@dataclass(frozen=True)
class Sample:
    """A case to draw: channels (C, Z, Y, X) in LPS order; target (Z, Y, X), None where nobody knows it."""

    title: str
    images: Array
    target: npt.NDArray[np.uint8] | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=Path, default=ROOT / "data")
    parser.add_argument("--cache", type=Path, default=ROOT / "test" / "output" / "synthesis-cache")
    parser.add_argument("--task", choices=CHANNELS, action="append", help="this task alone; the page stays as it is")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    sources = SynthesisSources.below(arguments.sources)
    page = [HEAD.format(commit=commit(), last=SAMPLES - 1)]
    for task in arguments.task or CHANNELS:
        settings, spacing_mm = recipe(task)
        generator = Generator(task, load_sources(sources, spacing_mm, cache=arguments.cache), settings)
        samples = [real_case()] if task == "isles22" else []
        for seed in range(SAMPLES):
            case = generator(seed)
            samples.append(Sample(f"synthetic, seed {seed}", case.images.numpy(), case.target.numpy()))
        path = HERE.parent / "images" / f"synthetic-{task}.png"
        contact_sheet(samples, CHANNELS[task]).savefig(path, dpi=110, pil_kwargs={"optimize": True})
        channels = ", ".join(name.upper() for name in CHANNELS[task])
        page += [f"## {task}: {channels}\n", f"![Twenty synthetic cases of {task}](../images/{path.name})\n"]
    if not arguments.task:
        (HERE / "synthesis.md").write_text("\n".join(page), encoding="utf-8")
        sys.stdout.write(f"{HERE / 'synthesis.md'}\n")


def recipe(task: str) -> tuple[SynthesisConfig, float]:
    """What the task's recipe draws, and its spacing in mm; the defaults where there is none."""
    path = ROOT / "training" / "configs" / f"{task}.yaml"
    if not path.is_file():
        return SynthesisConfig(), SPACING_MM
    run = load_settings(RunConfig, path)
    if not isinstance(run.data, SyntheticData):
        raise TypeError(f"{path} is not of synthetic cases")
    return run.data.settings, run.spacing_zyx[0]


def real_case() -> Sample:
    """The bundled patient, on the grid of the synthetic images."""
    volumes = [read(next((CASE / f"{name}-brain-mri").glob("*.mha"))) for name in CHANNELS["isles22"]]
    grid = respaced(volumes[0].grid, (SPACING_MM,) * 3)
    return Sample("REAL: the bundled case", np.stack([resample(volume, grid) for volume in volumes]), None)


def contact_sheet(samples: list[Sample], channels: tuple[str, ...]) -> Figure:
    """A cell a sample, its channels side by side."""
    across = ACROSS if len(channels) > 1 else 2 * ACROSS
    across = 1 if len(channels) > 3 else across
    down = -(-len(samples) // across)
    width = 1.3 * len(channels)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=(width * across, 1.75 * down), layout=layout, facecolor="black")
    cells = figure.subfigures(down, across, squeeze=False).ravel()
    for number, (cell, sample) in enumerate(zip(cells, samples, strict=False)):
        cell.set_facecolor("black")
        cell.suptitle(sample.title, color="orange" if sample.target is None else "lightgrey", fontsize=7)
        place = middle(sample)
        for axes, name, image in zip(np.ravel(cell.subplots(1, len(channels))), channels, sample.images, strict=True):
            window = WINDOWS.get(name, (0.0, max(grey_window(image, (0.0, 99.7))[1], 1e-6)))
            outlines = [] if sample.target is None else [(sample.target[place] > 0, COLOURS[5])]
            axes.imshow(draw_slice(image[place], window, outlines))
            axes.set_axis_off()
            if number < across and len(channels) > 1:
                axes.set_title(name.upper(), color="lightgrey", fontsize=7, pad=2)
    return figure


def middle(sample: Sample) -> int:
    """The slice with most of the lesion; without one, where the head is largest."""
    target = sample.target
    if target is not None and target.any():
        return int(target.sum((1, 2)).argmax())
    image = sample.images[0]
    return int((image > 0.1 * np.percentile(image, 99)).sum((1, 2)).argmax())


if __name__ == "__main__":
    main()
