"""Writes unvalidated.md and its pictures: `make unvalidated-results`. Weights that saw no real case of their task.

`--t1 NAME=FILE` adds the T1 image of a healthy brain, in which a network for lesions in T1 should find nothing.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from synthetic_cases import Scored, arguments_of, scored_cases, section, table, training

import segsync
from segsync.bundle import load_bundle
from segsync.lesions import measure
from segsync.predict import Settings
from segsync_train.runs import commit

DOCS = Path(__file__).parents[1]
#: Each task with the channel that its pictures show, and that channel's place.
TASKS = {"aims-tbi": ("T1", 0), "isles24": ("Tmax", 2)}
PICTURED = 8


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--t1", action="append", default=[], metavar="NAME=FILE", help="a T1 image without lesion")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    logging.getLogger("segsync").setLevel(logging.ERROR)
    healthy = {name: Path(file) for name, _, file in (given.partition("=") for given in arguments.t1)}
    lines = [
        "# What the weights do that no real case has tested",
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
            *section(bundle.spec, scored),
            "",
            f"![Outlines](../images/{picture.name})",
            "",
            f"{channel} of the first cases with a lesion, in the slice with most of it: reference in green, network in "
            "red. The patient's left is on the right.",
        ]
        if channel == "T1" and healthy:
            lines += ["", "On healthy brains, images that other packages ship:", ""]
            lines += table(
                ("image", "found, ml", "components"), list(false_positives(task, arguments.weights, healthy))
            )
    page = DOCS / "results" / "unvalidated.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(f"{page}\n")


def false_positives(task: str, weights: Path, images: dict[str, Path]) -> Iterator[tuple[str, str, str]]:
    """A row for each image without a lesion."""
    model = segsync.load(task, weights=weights, device="cpu")
    for name, file in images.items():
        result = model.predict({"t1": file}, Settings(tta="none"))
        found = measure(result.mask, result.grid, {1: "lesion"})
        yield name, f"{result.volume_ml:.2f}", str(len(found))


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
        for mask, colour in ((truth, "#3cdc50"), (one.mask, "#ff463c")):
            if mask[z].any():
                axes.contour(mask[z], levels=[0.5], colors=colour, linewidths=0.9)
        axes.set_title(f"{one.network.volume_ml:.1f} ml, Dice {one.network.dice:.2f}", fontsize=9)
    return figure


if __name__ == "__main__":
    main()
