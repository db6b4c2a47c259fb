"""A fingerprint and its plan as one HTML page: what a person checks before a GPU is busy for days."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from segsync_train.comparison.page import Chapter, Picture, page
from segsync_train.comparison.table import Section, Table
from segsync_train.data.cases import LabelledCase
from segsync_train.planning.fingerprint import Fingerprint, Intensities
from segsync_train.planning.rules import Plan
from segsync_train.trainer.figures import overlay

INK, BAR = "#1b1f24", "#0072B2"
#: Groups that the table lists.
LISTED = 20


def fingerprint_page(found: Fingerprint, plan: Plan, shown: Sequence[LabelledCase]) -> str:
    """The page.

    Args:
        found: The fingerprint.
        plan: What follows from it.
        shown: Cases as a network will see them, prepared with the planned settings.

    Returns:
        HTML.
    """
    volumes = [case.volume_ml for case in found.cases.values()]
    empty = sum(not volume for volume in volumes)
    summary = (
        f"{len(found.cases)} cases in {found.groups} groups ({found.group}) of {found.folder}, read as {found.layout}; "
        f"{empty} without any label."
    )
    chapters = (
        Chapter("What the network will see", tuple(map(_case, shown))),
        Chapter("The plan", tables=(_plan_table(plan),)),
        Chapter("Sizes and spacings", (_grids(found),), (_grid_table(found, plan),)),
        Chapter("Labels", (_volumes(found),), (_label_table(found),)),
        Chapter("Intensities", tables=(_intensity_table(found),)),
        Chapter("Groups", tables=(_group_table(found),)),
    )
    return page(f"Fingerprint of {plan.settings['name']}", summary, chapters)


def _case(case: LabelledCase) -> Picture:
    png = io.BytesIO()
    overlay(case, np.zeros_like(np.asarray(case.label))).save(png, "PNG")
    volume = float(case.labelled.sum() * case.voxel_ml)
    what = (
        f"{case.name}, {volume:.3g} ml: axial, coronal and sagittal plane through most of the labels (blue); rows are "
        "the channels. Superior and anterior must be up, and outlines must lie on what they name."
    )
    return Picture(f"{case.name}.png", png.getvalue(), what)


def _plan_table(plan: Plan) -> Table:
    rows = [
        (key, _words(plan.settings[key]), plan.reasons.get(key, "").replace("\n", "; "))
        for key in plan.settings
        if key in plan.reasons
    ]
    head, sections = ("setting", "value", "why"), (Section("", tuple(rows)),)
    return Table("plan", "Settings and their reasons", head, sections, words=(0, 1, 2))


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items() if key not in ("folder", "overrides"))
    if isinstance(value, list):
        return ", ".join(map(_words, value)) or "–"
    return str(value)


def _grids(found: Fingerprint) -> Picture:
    figure, axes = _sheet(2)
    for axis, name in enumerate("ZYX"):
        axes[0].hist(found.spacings()[:, axis], bins=30, alpha=0.6, label=name)
        axes[1].hist(found.sizes()[:, axis], bins=30, alpha=0.6, label=name)
    axes[0].set_xlabel("spacing, mm")
    axes[1].set_xlabel("size, voxels")
    axes[0].legend(frameon=False)
    return _picture("grids.png", figure, "Cases by spacing and size; Z is inferior to superior, X right to left.")


def _volumes(found: Fingerprint) -> Picture:
    figure, axes = _sheet(2)
    volumes = np.array([case.volume_ml for case in found.cases.values()])
    some = volumes[volumes > 0]
    axes[0].hist(some, bins=np.geomspace(some.min() * 0.99, some.max() * 1.01, 30), color=BAR)
    axes[0].set_xscale("log")
    axes[0].set_xlabel("labelled volume, ml")
    counts = [sum(case.components.values()) for case in found.cases.values()]
    axes[1].hist(counts, bins=min(30, max(counts) + 1), color=BAR)
    axes[1].set_xlabel("connected components")
    return _picture("labels.png", figure, "Cases by labelled volume (those that have any) and number of components.")


def _sheet(panels: int) -> tuple[Figure, list]:  # type: ignore[type-arg]
    figure = Figure(figsize=(4.2 * panels, 2.8), layout="constrained")
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for one in axes:
        one.set_ylabel("cases")
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _picture(name: str, figure: Figure, caption: str) -> Picture:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return Picture(name, png.getvalue(), caption)


def _grid_table(found: Fingerprint, plan: Plan) -> Table:
    rows = [
        _quantiles("spacing, mm", found.spacings()),
        _quantiles("size, voxels", found.sizes()),
        ("median size at the planned spacing", "", " × ".join(map(str, plan.median_size_zyx)), ""),
    ]
    return Table("grids", "Grids (Z × Y × X)", ("", "smallest", "median", "largest"), (Section("", tuple(rows)),))


def _quantiles(what: str, values: np.ndarray) -> tuple[str, ...]:
    return (what, *(" × ".join(f"{v:.4g}" for v in np.quantile(values, q, axis=0)) for q in (0, 0.5, 1)))


def _label_table(found: Fingerprint) -> Table:
    rows = []
    for value, name in found.labels.items():
        held = [case for case in found.cases.values() if case.volumes_ml.get(value)]
        volumes = [case.volumes_ml[value] for case in held]
        counts = [case.components[value] for case in held]
        figures = [f"{np.median(v):.3g} ({min(v):.3g} to {max(v):.3g})" if v else "–" for v in (volumes, counts)]
        rows.append((f"{value} {name}", str(len(held)), *figures))
    head = ("label", "cases that hold it", "volume, ml: median (range)", "components: median (range)")
    return Table("labels", "Labels", head, (Section("", tuple(rows)),))


def _intensity_table(found: Fingerprint) -> Table:
    rows = []
    for name, channel in found.channels.items():
        for where, values in (("labels", channel.labelled), ("patient", channel.tissue)):
            rows.append((f"{name}, {where}", str(channel.cases), *_figures(values)))
    head = ("channel", "cases", "mean", "SD", "0.5 %", "median", "99.5 %")
    return Table("intensities", "Intensities of all cases together", head, (Section("", tuple(rows)),))


def _figures(values: Intensities | None) -> tuple[str, ...]:
    if values is None:
        return ("–",) * 5
    return tuple(f"{v:.4g}" for v in (values.mean, values.sd, values.low, values.median, values.high))


def _group_table(found: Fingerprint) -> Table:
    sizes: dict[str, list[float]] = {}
    for case in found.cases.values():
        sizes.setdefault(case.group, []).append(case.volume_ml)
    largest = sorted(sizes, key=lambda name: (-len(sizes[name]), name))[:LISTED]
    rows = [(name, str(len(sizes[name])), f"{np.median(sizes[name]):.3g}") for name in largest]
    note = f"The largest {LISTED} of {len(sizes)}." if len(sizes) > LISTED else ""
    head = (found.group, "cases", "median labelled volume, ml")
    return Table("groups", "Cases by group", head, (Section("", tuple(rows)),), note)
