"""Writes unvalidated.md and its pictures: `make unvalidated-results`. Weights that saw no real case of their task.

`--t1 NAME=FILE` adds the T1 image of a healthy brain in MNI space, in which a network for lesions in T1 should find
nothing but what is planted there.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage
from synthetic_cases import Row, Scored, arguments_of, scored_cases, section, table, training
from thresholds import dice

import segsync
from segsync.bundle import load_bundle
from segsync.geometry import Volume
from segsync.images import read
from segsync.lesions import measure
from segsync.predict import Settings
from segsync_train.runs.folder import commit

DOCS = Path(__file__).parents[1]
#: Each task with the channel that its pictures show, and that channel's place.
TASKS = {"aims-tbi": ("T1", 0), "isles24": ("Tmax", 2)}
PICTURED = 8
#: Colours of the outlines, told apart by the colour-blind as well, on dark and on bright tissue.
REFERENCE, NETWORK = "#56b4e9", "#ff8c00"
#: Where cavities are planted: middle in mm, MNI (LPS, XYZ), and radius in mm.
CAVITIES = {
    "right frontal pole": ((-30.0, -52.0, 10.0), 15.0),
    "left temporal lobe": ((45.0, -2.0, -22.0), 12.0),
    "left parietal lobe": ((40.0, 50.0, 45.0), 9.0),
}
FLUID_PERCENTILE = 3
PLANTING = "Cavities planted into the same images, rough balls as dark as their fluid: real heads, but no real lesions."


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--t1", action="append", default=[], metavar="NAME=FILE", help="a T1 image without lesion")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    logging.getLogger("segsync").setLevel(logging.ERROR)
    healthy = {name: Path(file) for name, _, file in (given.partition("=") for given in arguments.t1)}
    lines = [
        "# Weights that no real case has tested: what they do",
        "",
        f"Written by `make unvalidated-results` (commit {commit()}, CPU). No image of a patient of these tasks was at "
        "hand: not in training, not here. Where synthetic images are unlike a scanner's, these figures say nothing.",
    ]
    for task, (channel, place) in TASKS.items():
        if not (arguments.weights / task).is_dir():
            continue
        bundle = load_bundle(arguments.weights / task, task)
        scored = list(scored_cases(bundle, arguments.sources, arguments.cache, arguments.cases))
        picture = DOCS / "images" / f"unvalidated-{task}.png"
        pictures(scored, place).savefig(picture, dpi=110)
        lines += [
            "",
            f"## `{task}`",
            "",
            f"Weights: {training(bundle.spec)}",
            "",
            *region(bundle.spec.region_model, arguments.weights),
            *section(bundle.spec, scored),
            "",
            f"![Outlines](../images/{picture.name})",
            "",
            f"{channel} of the first cases with a lesion, in the slice with most of it: reference in blue, network in "
            f"orange; above, the reference's volume and Dice. {'A missing map is black. ' if channel == 'Tmax' else ''}"
            "The patient's left is on the right.",
        ]
        if channel == "T1" and healthy:
            model = segsync.load(task, weights=arguments.weights, device="cpu")
            heads = {name: read(file) for name, file in healthy.items()}
            lines += ["", "On healthy brains, images that other packages ship:", ""]
            lines += table(("image", "found, ml", "components", "brain mask, ml"), list(untouched(model, heads)))
            lines += ["", PLANTING, ""]
            lines += table(("image", "cavity", "its volume, ml", "found, ml", "Dice"), list(planted(model, heads)))
    page = DOCS / "results" / "unvalidated.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(f"{page}\n")


def region(name: str | None, weights: Path) -> list[str]:
    """That a network sees the inside of a brain mask alone, and how good that mask is."""
    if name is None:
        return []
    spec = load_bundle(weights / name).spec
    point = spec.provenance["operating_point"]
    return [
        f"It sees the inside of a brain mask alone, which the region model `{spec.task}` segments: "
        f"{training(spec)} On {point['cases']} synthetic "
        f"cases they reach Dice {point['dice']:.3f}. The cases below are whole heads and skull-stripped brains, as the "
        "generator draws them, blanked outside of that mask as a patient's image is.",
        "",
    ]


def untouched(model: segsync.Model, heads: dict[str, Volume]) -> Iterator[Row]:
    """A row for each image without a lesion."""
    for name, head in heads.items():
        result = model.predict({"t1": head}, Settings(tta="none"))
        found = measure(result.mask, result.grid, {1: "lesion"})
        mask = model.pipeline.region_model(head) if model.pipeline.region_model is not None else None
        brain = "–" if mask is None else f"{mask.array.sum() * mask.grid.voxel_ml:.0f}"
        yield name, f"{result.volume_ml:.2f}", str(len(found)), brain


def planted(model: segsync.Model, heads: dict[str, Volume]) -> Iterator[Row]:
    """A row for each cavity that is put into each image: brain made as dark as its darkest percentiles, fluid."""
    for name, head in heads.items():
        inside = model.pipeline.region_model(head) if model.pipeline.region_model is not None else None
        image = head.array.astype(np.float32)
        brain = image > 0 if inside is None else inside.array.astype(bool)
        index = np.stack(np.meshgrid(*(np.arange(side) for side in head.grid.size_zyx), indexing="ij"), axis=-1)
        rough = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(image.shape), 4.0)
        for place, (centre_mm, radius_mm) in CAVITIES.items():
            away = np.linalg.norm(head.grid.points(index) - centre_mm, axis=-1) + 2.0 * rough / rough.std()
            fraction = np.clip(radius_mm - away + 0.5, 0, 1) * brain
            dark = image * (1 - fraction) + fraction * np.percentile(image[brain], FLUID_PERCENTILE)
            result = model.predict({"t1": Volume(dark.astype(np.float32), head.grid)}, Settings(tta="none"))
            truth = fraction >= 0.5
            overlap = dice(result.mask > 0, truth)
            volume = f"{np.count_nonzero(truth) * head.grid.voxel_ml:.1f}"
            yield name, place, volume, f"{result.volume_ml:.1f}", f"{overlap:.2f}"


def pictures(scored: Sequence[Scored], place: int) -> Figure:
    """A slice of each of the first cases with a lesion, both masks outlined."""
    shown = [case for case in scored if case.network.lesions][:PICTURED]
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    grid = figure.subplots(2, PICTURED // 2)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, one in zip(grid.flat, shown, strict=False):
        truth = one.case.label > 0
        z = int(truth.sum((1, 2)).argmax())
        image = np.asarray(one.case.image[place][z])
        low, high = np.percentile(one.case.image[place][one.case.tissue], (0.5, 99.5))
        axes.imshow(image, cmap="gray", vmin=low, vmax=high)
        for mask, colour in ((truth, REFERENCE), (one.mask, NETWORK)):
            if mask[z].any():
                axes.contour(mask[z], levels=[0.5], colors=colour, linewidths=0.9)
        axes.set_title(f"{one.network.volume_ml:.1f} ml, Dice {one.network.dice:.2f}", fontsize=9)
    return figure


if __name__ == "__main__":
    main()
