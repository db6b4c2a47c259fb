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
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from segsync.errors import InputError
from segsync.geometry import Volume, canonical_axes, canonical_grid
from segsync.images import read
from segsync_train.comparison.scores import DICE, MEAN, Run, Setting
from segsync_train.data.dataset import read_label

log = logging.getLogger(__name__)

Picture = npt.NDArray[np.generic]

#: Okabe and Ito's, the most conspicuous on grey first; then white and black for an eighth and ninth label.
COLOURS = ("#D55E00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#E69F00", "#0072B2", "#FFFFFF", "#000000")
QUARTILES = (0.25, 0.5, 0.75)
#: Panels in one row.
WIDEST = 9
#: Fraction of the colour in a label's fill; its outline is solid.
FILL = 0.45


@dataclass(frozen=True)
class _Slice:
    """One axial slice (Y, X): the image where there is one, the truth, the masks by system; pixels (Y, X) in mm."""

    image: Picture
    truth: Picture
    masks: Mapping[str, Picture]
    pixel_mm: tuple[float, float]


def chosen_cases(setting: Setting) -> tuple[str, ...]:
    """The cases at the lower quartile, the median and the upper quartile of the systems' mean Dice."""
    order = np.argsort(setting.of(DICE).mean(axis=0), kind="stable")
    places = dict.fromkeys(round(fraction * (len(order) - 1)) for fraction in QUARTILES)
    return tuple(setting.cases[order[place]] for place in places)


def montage_figure(setting: Setting) -> Figure | None:
    """A row or several a case, a panel a system; None where no run kept its masks or the images are gone, which is
    logged.
    """
    if not any(run.system.masks for runs in setting.runs.values() for run in runs):
        log.info("no pictures of %s: expected masks of its cases, found none; evaluate with --masks", setting.title)
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
            _draw(axes, row, shown, labels)
            if title in dice:
                axes.set_xlabel(f"Dice {dice[title]:.2f}", fontsize=7, labelpad=2)
            if place == 0 or lines > 1:
                axes.set_title(title, fontsize=8)
        line[0].set_ylabel(case, fontsize=7)
        for axes in line[len(titles) :]:
            axes.set_axis_off()
    names = [
        Patch(facecolor=COLOURS[place % len(COLOURS)], edgecolor="black", label=setting.labels[value])
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
    rotated = _rotated(truth)
    number = int(np.count_nonzero(rotated, axis=(1, 2)).argmax())
    images = (run.system.cases[case].images.get(run.system.reference or "") for _, run in runs)
    path = next((path for path in images if path is not None), None)
    image = read(path) if path is not None else Volume(np.zeros_like(truth.array), truth.grid)
    _, dy, dx = canonical_grid(truth.grid).spacing_zyx
    return _Slice(
        _rotated(image)[number],
        rotated[number],
        {system: _rotated(read(_path(run, case)))[number] for system, run in holders.items()},
        (dy, dx),
    )


def _path(run: Run, case: str) -> Path:
    return run.folder / run.system.masks[case]


def _rotated(volume: Volume) -> Picture:
    """The array with its axes towards superior, posterior and left."""
    axes, flips = canonical_axes(volume.grid)
    return volume.array.transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def _draw(axes: Axes, row: _Slice, labelled: Picture | None, labels: list[int]) -> None:
    image = row.image.astype(np.float64)
    low, high = np.percentile(image, (1, 99.5))
    grey = np.clip((image - low) / max(high - low, 1e-9), 0, 1)[..., None].repeat(3, axis=2)
    height, width = image.shape[0] * row.pixel_mm[0], image.shape[1] * row.pixel_mm[1]
    extent = (0.0, width, height, 0.0)
    masks = [] if labelled is None else [np.equal(labelled, value) for value in labels]
    for place, mask in enumerate(masks):
        grey[mask] = (1 - FILL) * grey[mask] + FILL * np.array(to_rgb(COLOURS[place % len(COLOURS)]))
    axes.imshow(grey, extent=extent, interpolation="nearest")
    for place, mask in enumerate(masks):
        if mask.any():
            # Beyond the picture there is nothing of it, so that the outline is closed there.
            padded = np.pad(mask, 1).astype(float)
            y = (np.arange(padded.shape[0]) - 0.5) * row.pixel_mm[0]
            x = (np.arange(padded.shape[1]) - 0.5) * row.pixel_mm[1]
            axes.contour(x, y, padded, [0.5], colors=COLOURS[place % len(COLOURS)], linewidths=0.9)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
