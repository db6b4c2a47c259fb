"""The paper's tables: all data sets in one (Table 1), each on its own (Tables 2 to 9), and what the scores cost."""

from collections.abc import Iterator, Sequence

import pandas as pd

from segsync_train.comparison.cells import NOTHING, best, interval, number, p_value, shown, signed
from segsync_train.comparison.frames import SETTING, within
from segsync_train.comparison.published import OVERVIEW, TITLES, Published, of_data
from segsync_train.comparison.scores import DICE, HD, HD95, METRICS, Run, Setting
from segsync_train.comparison.table import Row, Section, Table

PUBLISHED = "(published)"
NNUNETS = "nnU-Net's network from its own library, trained by this project's loop; not nnU-Net's package"
#: Systems, by what their names begin with, that are not what their authors run, and in what.
VARIANTS = {
    "3D-nnUNet": "MONAI's network by nnU-Net's plan, trained by this project's loop; not nnU-Net's package",
    "ResEnc-": NNUNETS,
    "PlainConvUNet": NNUNETS,
    "VoCo": "a variant: the paper's loss, without the teacher of the code released later",
    "SwinSSL": "a variant: masked cells of the encoder are zero, where the released code fills boxes",
    "Released": "the loss, or the boxes, of the code that its authors released; the rest is this project's",
    "SwinMM": "a variant: its pretraining alone, without the cross-view decoder of its fine-tuning",
    "MAE": "a variant: hidden cells are zero to an encoder of convolutions",
    "Hi-End-MAE": "a variant: hidden cells are zero to an encoder of convolutions",
    "Sparse": "masked cells stay so in every layer, as SparK's, under MAE's decoder",
}
MEANING = "Mean ± SD over cases, best in bold; (n=…) cases with a value where not all have one."
CONTRADICTION = (
    "Published: Table 1 as it stands; the paper's Tables 3 to 9 differ from it in places (HD of 3D-SegSync on WHS++ "
    "MRI: 5.12 here, 12.19 there)."
)


# --- one data set ----------------------------------------------------------------------------------------------------


def data_table(setting: Setting, summary: pd.DataFrame, reference: str, paper: Sequence[Published]) -> Table:
    """Table 2's layout for one setting: a section a label, the mean of labels first, published numbers below it.

    summary: the setting's rows of `frames.Frames`, here and below.
    """
    sections = [
        Section(name, tuple(_label_rows(summary[summary["label"] == label]))) for label, name in setting.labels.items()
    ]
    rows = [] if setting.crossed else of_data(tuple(paper), setting.data)
    if rows:
        cells = ((f"{row.system} {PUBLISHED}", *_published(row), row.p or NOTHING, NOTHING, NOTHING) for row in rows)
        sections.insert(1, Section(f"{TITLES[setting.data]}, as published: other cases, nothing tested", tuple(cells)))
    note = f"{MEANING} {len(setting.cases)} cases."
    if any(len(runs) > 1 for runs in setting.runs.values()):
        note += " Of a system's several runs, each case's mean is taken."
    if reference in setting.systems:
        note += (
            f" p: Dice against {reference}, Wilcoxon signed-rank, corrected by Holm; r: matched-pairs rank-biserial "
            f"correlation; difference: {_intervals(summary)}"
        )
    own = [name for name in VARIANTS if any(system.startswith(name) for system in setting.systems)]
    note += "".join(f" {name}: {VARIANTS[name]}." for name in own)
    head = ("System", *(metric.title for metric in METRICS), "p (Dice)", "r (Dice)", "Dice difference [95 % CI]")
    return Table(f"data-{setting.slug}", setting.title, head, tuple(sections), note)


def _intervals(summary: pd.DataFrame) -> str:
    """What the intervals hold: with one seed of each system, nothing of what another training would give."""
    counts = sorted({int(count) for column in ("seeds", "reference_seeds") for count in summary[column].dropna()})
    if counts == [1]:
        return "bootstrap interval (BCa) of the mean over cases; one seed each, so that no other training is in it."
    few = "" if min(counts) > 1 else "; a system of one seed adds nothing of its trainings"
    return f"interval of a hierarchical bootstrap over cases and {counts[0]} to {counts[-1]} seeds{few}."


def _label_rows(summary: pd.DataFrame) -> Iterator[Row]:
    columns = [best(summary[summary["metric"] == metric.key], metric) for metric in METRICS]
    for place, one in enumerate(summary[summary["metric"] == DICE.key].itertuples()):
        compared = (p_value(one.p_holm), signed(one.effect, 2), interval(one.difference, one.low, one.high, DICE))
        yield (one.system, *(column[place] for column in columns), *compared)


def _published(row: Published) -> list[str]:
    return [number(*row.values[metric.key], metric) for metric in METRICS]


def differences_table(setting: Setting, summary: pd.DataFrame, reference: str) -> Table:
    """The same tests for every metric, of the label that stands for all."""
    own = summary[(summary["label"] == setting.overall) & (summary["system"] != reference)]
    sections = [
        Section(
            metric.title,
            tuple(
                (
                    one.system,
                    str(one.compared),
                    interval(one.difference, one.low, one.high, metric),
                    p_value(one.p),
                    p_value(one.p_holm),
                    signed(one.effect, 2),
                )
                for one in own[own["metric"] == metric.key].itertuples()
            ),
        )
        for metric in METRICS
    ]
    return Table(
        f"data-{setting.slug}-differences",
        f"{setting.title}: difference from {reference}, {setting.labels[setting.overall]}",
        ("System", "cases", "difference [95 % CI]", "p", "p, Holm", "r"),
        tuple(sections),
        "A distance is better where the difference is negative, Dice where it is positive.",
    )


def data_csv(summary: pd.DataFrame) -> str:
    """Every number of both, a line for each label, system and metric."""
    return str(summary.drop(columns=SETTING).to_csv(index=False, float_format="%.6g", lineterminator="\n"))


# --- all data sets ---------------------------------------------------------------------------------------------------


def overview_table(settings: Sequence[Setting], summary: pd.DataFrame, paper: Sequence[Published]) -> Table:
    """Table 1's layout: a row a setting, a column a system; Dice, then Hausdorff distance."""
    systems = list(dict.fromkeys(name for setting in settings for name in setting.systems))
    rows = [row for row in paper if row.table == OVERVIEW]
    systems += [name for name in dict.fromkeys(row.system for row in rows) if name not in systems]
    sections = []
    for metric in (DICE, HD):
        lines: list[Row] = []
        for setting in settings:
            own = within(summary, setting, label=setting.overall, metric=metric.key)
            cells = dict(zip(own["system"], best(own, metric), strict=True))
            lines.append((setting.title, *(cells.get(system, NOTHING) for system in systems)))
        for data in dict.fromkeys(row.data for row in rows):
            given = {row.system: row.values[metric.key] for row in rows if row.data == data}
            cells = {name: number(mean, sd, metric) for name, (mean, sd) in given.items()}
            lines.append((f"{TITLES[data]} {PUBLISHED}", *(cells.get(system, NOTHING) for system in systems)))
        sections.append(Section(metric.title, tuple(lines)))
    note = f"{MEANING} {CONTRADICTION}" if rows else MEANING
    return Table("overview", "All data sets, mean of labels", ("Data", *systems), tuple(sections), note)


def budget_table(settings: Sequence[Setting], summary: pd.DataFrame) -> Table:
    """What each score cost: parameters, operations, time and memory beside it."""
    head = (
        "System", "runs", DICE.title, HD95.title, "parameters 10⁶", "GFLOP a patch", "patch zyx", "batch", "steps",
        "pretraining steps", "s a step", "peak GiB", "hours", "hardware",
    )  # fmt: skip
    sections = [Section(setting.title, tuple(_budget_rows(setting, summary))) for setting in settings]
    note = (
        "GFLOP: forward pass of one patch, a multiply-add counts as two. Seconds a step: median of the log, whatever "
        "else the machine did meanwhile; hours: with those of the pretraining. Means over runs, of memory the largest."
    )
    words = (0, len(head) - 1)
    return Table("budget", "What the scores cost", head, tuple(sections), note, words)


def _budget_rows(setting: Setting, summary: pd.DataFrame) -> Iterator[Row]:
    own = within(summary, setting, label=setting.overall)
    dice, hd95 = (own[own["metric"] == metric.key].itertuples() for metric in (DICE, HD95))
    for system, one, other in zip(setting.systems, dice, hd95, strict=True):
        runs = setting.runs[system]
        yield (system, str(len(runs)), shown(one, DICE), shown(other, HD95), *_budget(runs))


def _budget(runs: Sequence[Run]) -> Row:
    budgets = [run.system.budget for run in runs if run.system.budget]
    if not budgets:
        return (NOTHING,) * 10
    first = budgets[0]
    speeds = [b.seconds_per_step for b in budgets if b.seconds_per_step is not None]
    peaks = [b.peak_memory_mib for b in budgets if b.peak_memory_mib is not None]
    hours = [b.hours + b.inherited_hours for b in budgets]
    return (
        f"{first.parameters / 1e6:.2f}",
        f"{first.gflops:.4g}",
        "×".join(str(side) for side in first.patch_zyx),
        str(first.batch),
        f"{sum(b.steps for b in budgets) / len(budgets):.0f}",
        f"{sum(b.inherited_steps for b in budgets) / len(budgets):.0f}",
        f"{sum(speeds) / len(speeds):.3g}" if speeds else NOTHING,
        f"{max(peaks) / 1024:.2f}" if peaks else NOTHING,
        f"{sum(hours) / len(hours):.2g}",
        ", ".join(dict.fromkeys(b.hardware for b in budgets)),
    )
