"""Figures 5 to 7: image, truth and what each system found, side by side, from masks that `evaluate --masks` kept.

Shown are the cases at the quartiles of all systems' mean Dice, so that nobody chooses them, each in the axial slice
with most of the truth, the patient's right on the left.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from PIL import Image

from segsync.drawing import COLOURS as SIX
from segsync.drawing import Colour, Pixels, draw_slice, grey_window
from segsync.errors import InputError
from segsync.geometry import Volume, canonical
from segsync.images import read
from segsync_train.comparison.scores import DICE, MEAN, Run, Setting
from segsync_train.data.dataset import read_label

log = logging.getLogger(__name__)

#: The pictures' six, then blue, white and black for a seventh to ninth label.
COLOURS: tuple[Colour, ...] = (*SIX, (0, 114, 178), (255, 255, 255), (0, 0, 0))
QUARTILES = (0.25, 0.5, 0.75)
#: Panels in one row.
WIDEST = 9
#: Fraction of the colour in a label's fill; its outline is solid.
FILL = 0.45
#: Pixels of a panel's longer side.
PANEL = 360


@dataclass(frozen=True)
class _Slice:
    """One axial slice (Y, X): the image (zeros if it is gone), the truth, the masks by system; pixels (Y, X) in mm."""

    image: Pixels
    truth: Pixels
    masks: Mapping[str, Pixels]
    pixel_mm: tuple[float, float]


def chosen_cases(setting: Setting) -> tuple[str, ...]:
    """The cases at the lower quartile, the median and the upper quartile of the systems' mean Dice."""
    order = np.argsort(setting.of(DICE).mean(axis=0), kind="stable")
    places = dict.fromkeys(round(fraction * (len(order) - 1)) for fraction in QUARTILES)
    return tuple(setting.cases[order[place]] for place in places)


def montage_figure(setting: Setting) -> Figure | None:
    """A row or several a case, a panel a system.

    None where no run kept its masks or the images are gone, which is logged.
    """
    if not any(run.system.masks for runs in setting.runs.values() for run in runs):
        log.info("no pictures of %s: no masks of its cases; evaluate with --masks", setting.title)
        return None
    labels = [value for value in setting.labels if value != MEAN]
    try:
        rows = {case: _slice(setting, case, labels) for case in chosen_cases(setting)}
    except InputError as error:
        log.warning("no pictures of %s: %s", setting.title, error)
        return None
    systems = [system for system in setting.systems if any(system in row.masks for row in rows.values())]
    titles = ["image", "truth", *systems]
    lines = math.ceil(len(titles) / WIDEST)
    columns = math.ceil(len(titles) / lines)
    tight = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=(1.7 * columns, (1.85 + 0.15 * (lines > 1)) * len(rows) * lines + 0.6), layout=tight)
    panels = figure.subplots(len(rows) * lines, columns, squeeze=False).reshape(len(rows), lines * columns)
    for place, (line, (case, row)) in enumerate(zip(panels, rows.items(), strict=True)):
        dice = dict(zip(setting.systems, setting.of(DICE)[:, setting.cases.index(case)], strict=True))
        for axes, title in zip(line, titles, strict=False):
            shown = {"image": None, "truth": row.truth}.get(title, row.masks.get(title))
            axes.imshow(_drawn(row, shown, labels))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if title in dice:
                axes.set_xlabel(f"Dice {dice[title]:.2f}", fontsize=7, labelpad=2)
            if place == 0 or lines > 1:
                axes.set_title(title, fontsize=8)
        line[0].set_ylabel(case, fontsize=7)
        for axes in line[len(titles) :]:
            axes.set_axis_off()
    names = [
        Patch(facecolor=_css(COLOURS[place % len(COLOURS)]), edgecolor="black", label=setting.labels[value])
        for place, value in enumerate(labels)
    ]
    figure.legend(handles=names, loc="outside lower center", ncols=4, frameon=False, fontsize=7)
    return figure


def _slice(setting: Setting, case: str, labels: list[int]) -> _Slice:
    """Read a case and cut it; raises InputError where a file is gone."""
    runs = [(system, run) for system in setting.systems for run in setting.runs[system] if case in run.system.cases]
    # Of several seeds the first is shown.
    holders = {system: run for system, run in reversed(runs) if case in run.system.masks}
    files = runs[0][1].system.cases[case]
    truth = read_label(files, {value: setting.labels[value] for value in labels})
    upright = canonical(truth)
    number = int(np.count_nonzero(upright.array, axis=(1, 2)).argmax())
    images = (run.system.cases[case].images.get(run.system.reference or "") for _, run in runs)
    path = next((path for path in images if path is not None), None)
    image = read(path) if path is not None else Volume(np.zeros_like(truth.array), truth.grid)
    _, dy, dx = upright.grid.spacing_zyx
    return _Slice(
        canonical(image).array[number],
        upright.array[number],
        {system: canonical(read(_path(run, case))).array[number] for system, run in holders.items()},
        (dy, dx),
    )


def _path(run: Run, case: str) -> Path:
    return run.folder / run.system.masks[case]


def _drawn(row: _Slice, labelled: Pixels | None, labels: list[int]) -> Image.Image:
    outlines = (
        []
        if labelled is None
        else [(np.equal(labelled, value), COLOURS[place % len(COLOURS)]) for place, value in enumerate(labels)]
    )
    longer = max(side * mm for side, mm in zip(row.image.shape, row.pixel_mm, strict=True))
    return draw_slice(
        row.image, grey_window(row.image), outlines, pixel_mm=row.pixel_mm, pixels_per_mm=PANEL / longer, fill=FILL
    )


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
