"""The paper's Figures 2 to 4 and 8 to 10 from scores. Okabe and Ito's colours; hatches tell systems apart in grey."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from segsync_train.comparison.frames import within
from segsync_train.comparison.published import Published, of_data
from segsync_train.comparison.scores import DICE, HD95, Metric, Setting
from segsync_train.comparison.statistics import LEVEL, Values, beats

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "+++", "ooo")
INK, LINE, YES, NO = "#1b1f24", "#c4cbd2", "#F0E442", "#0072B2"
#: Side of a panel and width of a legend's letter in inches, points of a title, and boxes that stand in one row.
PANEL, LETTER, TITLE, BOXES = 2.9, 0.065, 9, 32

Group = TypeVar("Group")


@dataclass(frozen=True)
class Look:
    """What a system looks like in every figure: its colour, and a hatch for those who see none."""

    colour: str
    hatch: str


def looks(systems: Sequence[str]) -> dict[str, Look]:
    """Colour and hatch of each system, the same in every figure."""
    return {
        name: Look(COLOURS[n % len(COLOURS)], HATCHES[(n + n // len(COLOURS)) % len(HATCHES)])
        for n, name in enumerate(systems)
    }


def labels_figure(setting: Setting, scores: pd.DataFrame, look: Mapping[str, Look]) -> Figure:
    """Fig. 3: Dice of every label and case, a box a system; scores as `frames.Frames` has them, here and below."""
    groups = {name: _of_systems(scores, setting, DICE, label) for label, name in setting.labels.items()}
    rows = _rows(list(groups), len(setting.systems))
    figure = _sheet(len(rows), _width(rows, len(setting.systems)), 0.5 + 2.8 * len(rows))
    for axes, names in zip(figure.axes, rows, strict=True):
        _boxes(axes, {name: groups[name] for name in names}, look, len(rows[0]))
        axes.set_ylabel(DICE.title)
    _legend(figure, setting.systems, look)
    return figure


def data_figure(
    settings: Sequence[Setting], scores: pd.DataFrame, look: Mapping[str, Look], paper: Sequence[Published]
) -> Figure:
    """Figs. 2 and 4: Dice and HD95 of every data set, a box a system; diamonds are the paper's means."""
    systems = _systems(settings)
    rows = _rows(settings, len(systems))
    figure = _sheet(2 * len(rows), _width(rows, len(systems)), 0.5 + 5.4 * len(rows))
    panels = [(row, metric) for row in rows for metric in (DICE, HD95)]
    for axes, (row, metric) in zip(figure.axes, panels, strict=True):
        groups = {_lines(setting): _of_systems(scores, setting, metric) for setting in row}
        places = _boxes(axes, groups, look, len(rows[0]))
        axes.set_ylabel(metric.title)
        for setting in row:
            for given in [] if setting.crossed else of_data(tuple(paper), setting.data):
                place = places.get((_lines(setting), given.system))
                if place is not None:
                    axes.plot(place, given.values[metric.key][0], "D", color="white", mec=INK, ms=5, zorder=5)
    _legend(figure, systems, look)
    return figure


def cross_figure(settings: Sequence[Setting], scores: pd.DataFrame, look: Mapping[str, Look]) -> Figure:
    """Fig. 9: mean Dice on a data set by what the systems were trained on, itself first; lines are ± SD."""
    crossed = list(dict.fromkeys(setting.data for setting in settings if setting.crossed))
    systems = _systems(settings)
    figure = _sheet(1, max(6.0, PANEL * len(crossed) + 0.5), 3.6, columns=len(crossed))
    for axes, data in zip(figure.axes, crossed, strict=True):
        own = sorted((setting for setting in settings if setting.data == data), key=lambda setting: setting.crossed)
        width = 0.8 / len(systems)
        for group, setting in enumerate(own):
            for system, values in _of_systems(scores, setting, DICE).items():
                place = group + (systems.index(system) - (len(systems) - 1) / 2) * width
                spread = np.nanstd(values, ddof=1) if np.isfinite(values).sum() > 1 else 0.0
                axes.bar(
                    place, np.nanmean(values), width * 0.9, edgecolor=INK, linewidth=0.8, facecolor=look[system].colour,
                    hatch=look[system].hatch,
                )  # fmt: skip
                axes.errorbar(place, np.nanmean(values), spread, color=INK, capsize=2, linewidth=1)
        axes.set_xticks(range(len(own)), [f"trained on\n{setting.trained_on}" for setting in own])
        axes.set(ylabel=DICE.title, ylim=(0, 1.02))
        axes.set_title(f"tested on {data}", fontsize=TITLE)
    _legend(figure, systems, look)
    return figure


def significance_figure(settings: Sequence[Setting], scores: pd.DataFrame) -> Figure:
    """Fig. 8: yellow where the row's system is better than the column's; one-sided tests, corrected by Holm."""
    most = max(len(setting.systems) for setting in settings)
    side = max(PANEL, 1.5 + 0.5 * most)
    figure = _sheet(len(settings), 2 * side, side * len(settings) + 0.3, columns=2)
    panels = [(setting, metric) for setting in settings for metric in (DICE, HD95)]
    for axes, (setting, metric) in zip(figure.axes, panels, strict=True):
        values = np.stack(list(_of_systems(scores, setting, metric).values()))
        p = beats(values, larger_is_better=metric.larger_is_better)
        shown = np.ma.masked_invalid(np.where(np.isnan(p), np.nan, p < LEVEL))
        axes.pcolormesh(shown, cmap=ListedColormap([NO, YES]), vmin=0, vmax=1, edgecolors="white", linewidth=2)
        for (row, column), value in np.ndenumerate(p):
            if not np.isnan(value):
                text = "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")
                axes.text(
                    column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7,
                    color=INK if value < LEVEL else "white",
                )  # fmt: skip
        middles = np.arange(len(setting.systems)) + 0.5
        axes.set_xticks(middles, setting.systems, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(middles, setting.systems)
        axes.invert_yaxis()
        axes.set_title(_title(setting, metric), fontsize=TITLE)
        axes.set(aspect="equal", xlabel="… than this?", ylabel="Is this better …")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    patches = [Patch(facecolor=YES, label=f"better, p < {LEVEL:g}"), Patch(facecolor=NO, label="not shown to be")]
    figure.legend(handles=patches, loc="outside upper center", ncols=2, frameon=False)
    return figure


def ranking_figure(settings: Sequence[Setting], ranks: pd.DataFrame, look: Mapping[str, Look]) -> Figure:
    """Fig. 10: how often each system had each rank in draws of the cases; cross: median, line: 95 % of the draws.

    ranks: as `frames.Frames` has them.
    """
    most = max(len(setting.systems) for setting in settings)
    side = max(PANEL, 1.3 + 0.45 * most)
    figure = _sheet(len(settings), 2 * side, side * len(settings), columns=2)
    panels = [(setting, metric) for setting in settings for metric in (DICE, HD95)]
    for axes, (setting, metric) in zip(figure.axes, panels, strict=True):
        own = within(ranks, setting, metric=metric.key)
        count = len(own)
        places = np.arange(1, count + 1)
        fractions = own[[f"at_{place}" for place in places]].to_numpy()
        order = np.lexsort((fractions @ places, own["rank"]))
        for place, system in enumerate(order):
            one = own.iloc[system]
            seen = fractions[system] > 0
            axes.scatter(
                np.full(seen.sum(), place), places[seen], 420 * fractions[system][seen], edgecolor=INK,
                linewidth=0.8, zorder=3, facecolor=look[one["system"]].colour,
            )  # fmt: skip
            axes.plot([place, place], [one["low"], one["high"]], color="black", linewidth=1.2, zorder=4)
            axes.plot(place, one["median"], "x", color="black", ms=7, mew=1.6, zorder=5)
        names = own["system"].iloc[order].tolist()
        axes.set_xticks(range(count), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(1, count + 1))
        axes.set(xlim=(-0.6, count - 0.4), ylim=(count + 0.6, 0.4), ylabel="rank")
        agreement = float(own["tau"].iloc[0])
        tau = "all tied" if math.isnan(agreement) else f"τ {agreement:.2f}"
        axes.set_title(f"{_title(setting, metric)}, {tau}", fontsize=TITLE)
        axes.grid(color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure


def _of_systems(scores: pd.DataFrame, setting: Setting, metric: Metric, label: int | None = None) -> dict[str, Values]:
    """A metric in a setting's cases by system, of one label; None takes what stands for all of them."""
    own = within(scores, setting, label=setting.overall if label is None else label)
    return {str(system): rows[metric.key].to_numpy() for system, rows in own.groupby("system", sort=False)}


def _boxes(
    axes: Axes, groups: Mapping[str, Mapping[str, Values]], look: Mapping[str, Look], room: int
) -> dict[tuple[str, str], float]:
    """Boxes with every case as a dot, in groups, with room for so many; returns the place of each group's systems."""
    systems = list(dict.fromkeys(system for values in groups.values() for system in values))
    places: dict[tuple[str, str], float] = {}
    thin = {"linewidth": 0.8}
    for group, (title, values) in enumerate(groups.items()):
        for system, cases in values.items():
            place = group * (len(systems) + 1) + systems.index(system)
            places[title, system] = place
            known = cases[np.isfinite(cases)]
            axes.boxplot(
                [known], positions=[place], widths=0.76, patch_artist=True, showfliers=False, zorder=2,
                boxprops={**thin, "edgecolor": INK, "facecolor": look[system].colour, "hatch": look[system].hatch},
                medianprops={"color": INK, "linewidth": 1.8},
                whiskerprops={**thin, "color": INK}, capprops={**thin, "color": INK},
            )  # fmt: skip
            jitter = np.random.default_rng(len(known)).uniform(-0.22, 0.22, len(known))
            axes.plot(place + jitter, known, "o", color=INK, mec="white", mew=0.3, ms=2.6, alpha=0.7, zorder=3)
    middle = (len(systems) - 1) / 2
    axes.set_xticks([group * (len(systems) + 1) + middle for group in range(len(groups))], groups)
    axes.set_xlim(-1, room * (len(systems) + 1) - 1)
    axes.tick_params(axis="x", length=0)
    for group in range(1, len(groups)):
        axes.axvline(group * (len(systems) + 1) - 1, color=LINE, linewidth=0.8)
    return places


def _rows(groups: Sequence[Group], systems: int) -> list[list[Group]]:
    """Groups in rows that are not too long to read, and about equally long."""
    per_row = max(1, BOXES // systems)
    count = math.ceil(len(groups) / per_row)
    size = math.ceil(len(groups) / count)
    return [list(groups[first : first + size]) for first in range(0, len(groups), size)]


def _width(rows: Sequence[Sequence[object]], systems: int) -> float:
    return max(5.0, 1.0 + 0.32 * len(rows[0]) * (systems + 1))


def _sheet(rows: int, width: float, height: float, columns: int = 1) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure


def _legend(figure: Figure, systems: Sequence[str], look: Mapping[str, Look]) -> None:
    patches = [
        Patch(edgecolor=INK, facecolor=look[name].colour, hatch=look[name].hatch, label=name) for name in systems
    ]
    widest = 0.8 + LETTER * max(map(len, systems))
    columns = max(1, min(4, len(patches), int(figure.get_figwidth() / widest)))
    figure.legend(handles=patches, loc="outside upper center", ncols=columns, frameon=False, fontsize=8)


def _systems(settings: Sequence[Setting]) -> list[str]:
    return list(dict.fromkeys(name for setting in settings for name in setting.systems))


def _title(setting: Setting, metric: Metric) -> str:
    return f"{_lines(setting)}: {metric.title.removesuffix(' mm')}"


def _lines(setting: Setting) -> str:
    """The setting's title, in two lines where it is long."""
    return setting.title.replace(", trained", ",\ntrained")
