"""Writes unvalidated.md and its picture: `make unvalidated-results`. The isles24 weights, which saw no real case."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from synthetic_cases import Scored, arguments_of, scored_cases, section, training

from segsync.bundle import load_bundle
from segsync.drawing import PREDICTED, REFERENCE, draw_slice, grey_window
from segsync_train.runs.folder import commit

DOCS = Path(__file__).parents[1]
#: Tmax among the channels: what the picture shows.
TMAX = 2
PICTURED = 8


def main() -> None:
    arguments = arguments_of(__doc__).parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    logging.getLogger("segsync").setLevel(logging.ERROR)
    bundle = load_bundle(arguments.weights / "isles24", "isles24")
    scored = list(scored_cases(bundle, arguments.sources, arguments.cache, arguments.cases))
    picture = DOCS / "images" / "unvalidated-isles24.png"
    pictures(scored, TMAX).savefig(picture, dpi=110)
    lines = [
        "# Weights that no real case has tested: what they do",
        "",
        f"Written by `make unvalidated-results` (commit {commit()}, CPU). No image of a patient of this task was at "
        "hand: not in training, not here. Where synthetic images are unlike a scanner's, these figures say nothing.",
        "",
        "## `isles24`",
        "",
        f"Weights: {training(bundle.spec)}",
        "",
        *section(bundle.spec, scored),
        "",
        f"![Outlines](../images/{picture.name})",
        "",
        "Tmax of the first cases with a lesion, in the slice with most of it: reference in blue, network in orange; "
        "above, the reference's volume and Dice. A missing map is black. The patient's left is on the right.",
    ]
    page = DOCS / "results" / "unvalidated.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(f"{page}\n")


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
        window = grey_window(one.case.image[place][one.case.tissue], (0.5, 99.5))
        outlines = [(truth[z], REFERENCE), (one.mask[z], PREDICTED)]
        axes.imshow(draw_slice(np.asarray(one.case.image[place][z]), window, outlines))
        axes.set_title(f"{one.network.volume_ml:.1f} ml, Dice {one.network.dice:.2f}", fontsize=9)
    return figure


if __name__ == "__main__":
    main()
