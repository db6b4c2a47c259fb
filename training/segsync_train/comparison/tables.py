"""The paper's tables: all data sets in one (Table 1), each on its own (Tables 2 to 9), and what the scores cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from segsync_train.comparison.cells import NOTHING, best, interval, number, p_value, shown, signed
from segsync_train.comparison.published import OVERVIEW, TITLES, Published, of_data
from segsync_train.comparison.scores import DICE, HD, HD95, METRICS, Run, Setting, statistics_of
from segsync_train.comparison.statistics import Difference, difference, holm
from segsync_train.comparison.table import Row, Section, Table
from segsync_train.evaluation.summary import csv_of

COLUMNS = (
    "label", "name", "system", "metric", "cases", "undefined", "mean", "sd", "median", "difference", "low", "high", "p",
    "p_holm", "effect",
)  # fmt: skip
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


@dataclass(frozen=True)
class Compared:
    """A system against the reference.

    Attributes:
        difference: The difference.
        p: Corrected by Holm over the systems compared in one metric and label.
    """

    difference: Difference
    p: float


#: By label, metric and system; without the reference.
Tests = Mapping[tuple[int, str, str], Compared]


def compared_with(setting: Setting, reference: str) -> Tests:
    """Every other system against the reference; nothing where the setting lacks it."""
    if reference not in setting.systems:
        return {}
    place, found = setting.systems.index(reference), {}
    for label in setting.labels:
        for metric in METRICS:
            values = [setting.seeds_of(metric, name, label) for name in setting.systems]
            others = [n for n in range(len(values)) if n != place]
            differences = [difference(values[n], values[place]) for n in others]
            for n, one, p in zip(others, differences, holm([d.p for d in differences]), strict=True):
                found[label, metric.key, setting.systems[n]] = Compared(one, p)
    return found


# --- one data set ----------------------------------------------------------------------------------------------------


def data_table(setting: Setting, tests: Tests, reference: str, paper: Sequence[Published]) -> Table:
    """Table 2's layout for one setting: a section a label, the mean of labels first, published numbers below it."""
    sections = [Section(name, tuple(_label_rows(setting, label, tests))) for label, name in setting.labels.items()]
    rows = [] if setting.crossed else of_data(tuple(paper), setting.data)
    if rows:
        cells = ((f"{row.system} {PUBLISHED}", *_published(row), row.p or NOTHING, NOTHING, NOTHING) for row in rows)
        sections.insert(1, Section(f"{TITLES[setting.data]}, as published: other cases, nothing tested", tuple(cells)))
    note = f"{MEANING} {len(setting.cases)} cases."
    if any(len(runs) > 1 for runs in setting.runs.values()):
        note += " Of a system's several runs, each case's mean is taken."
    if tests:
        note += (
            f" p: Dice against {reference}, Wilcoxon signed-rank, corrected by Holm; r: matched-pairs rank-biserial "
            f"correlation; difference: {_intervals(tests)}"
        )
    own = [name for name in VARIANTS if any(system.startswith(name) for system in setting.systems)]
    note += "".join(f" {name}: {VARIANTS[name]}." for name in own)
    head = ("System", *(metric.title for metric in METRICS), "p (Dice)", "r (Dice)", "Dice difference [95 % CI]")
    return Table(f"data-{setting.slug}", setting.title, head, tuple(sections), note)


def _intervals(tests: Tests) -> str:
    """What the intervals hold: with one seed of each system, nothing of what another training would give."""
    seeds = {test.difference.seeds for test in tests.values()}
    if seeds == {(1, 1)}:
        return "bootstrap interval (BCa) of the mean over cases; one seed each, so that no other training is in it."
    counts = sorted({count for pair in seeds for count in pair})
    few = "" if min(counts) > 1 else "; a system of one seed adds nothing of its trainings"
    return f"interval of a hierarchical bootstrap over cases and {counts[0]} to {counts[-1]} seeds{few}."


def _label_rows(setting: Setting, label: int, tests: Tests) -> Iterator[Row]:
    columns = [best(statistics_of(setting.of(metric, label)), metric) for metric in METRICS]
    for place, system in enumerate(setting.systems):
        test = tests.get((label, DICE.key, system))
        compared = (p_value(test.p), signed(test.difference.effect, 2), interval(test.difference, DICE)) if test else ()
        yield (system, *(column[place] for column in columns), *(compared or (NOTHING,) * 3))


def _published(row: Published) -> list[str]:
    return [number(*row.values[metric.key], metric) for metric in METRICS]


def differences_table(setting: Setting, tests: Tests, reference: str) -> Table:
    """The same tests for every metric, of the label that stands for all."""
    sections = [
        Section(
            metric.title,
            tuple(
                (
                    system,
                    str(test.difference.n),
                    interval(test.difference, metric),
                    p_value(test.difference.p),
                    p_value(test.p),
                    signed(test.difference.effect, 2),
                )
                for system in setting.systems
                if (test := tests.get((setting.overall, metric.key, system)))
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


def data_csv(setting: Setting, tests: Tests) -> str:
    """Every number of both, a line for each label, system and metric."""
    rows = []
    for label, name in setting.labels.items():
        for metric in METRICS:
            for system, one in zip(setting.systems, statistics_of(setting.of(metric, label)), strict=True):
                test = tests.get((label, metric.key, system))
                d = test.difference if test else None
                compared = (d.mean, d.low, d.high, d.p, test.p, d.effect) if test and d else (None,) * 6
                about = (label, name, system, metric.key)
                rows.append((*about, one.n, one.undefined, one.mean, one.sd, one.median, *compared))
    return csv_of(COLUMNS, rows)


# --- all data sets ---------------------------------------------------------------------------------------------------


def overview_table(settings: Sequence[Setting], paper: Sequence[Published]) -> Table:
    """Table 1's layout: a row a setting, a column a system; Dice, then Hausdorff distance."""
    systems = list(dict.fromkeys(name for setting in settings for name in setting.systems))
    rows = [row for row in paper if row.table == OVERVIEW]
    systems += [name for name in dict.fromkeys(row.system for row in rows) if name not in systems]
    sections = []
    for metric in (DICE, HD):
        lines: list[Row] = []
        for setting in settings:
            cells = dict(zip(setting.systems, best(statistics_of(setting.of(metric)), metric), strict=True))
            lines.append((setting.title, *(cells.get(system, NOTHING) for system in systems)))
        for data in dict.fromkeys(row.data for row in rows):
            given = {row.system: row.values[metric.key] for row in rows if row.data == data}
            cells = {name: number(mean, sd, metric) for name, (mean, sd) in given.items()}
            lines.append((f"{TITLES[data]} {PUBLISHED}", *(cells.get(system, NOTHING) for system in systems)))
        sections.append(Section(metric.title, tuple(lines)))
    note = f"{MEANING} {CONTRADICTION}" if rows else MEANING
    return Table("overview", "All data sets, mean of labels", ("Data", *systems), tuple(sections), note)


def budget_table(settings: Sequence[Setting]) -> Table:
    """What each score cost: parameters, operations, time and memory beside it."""
    head = (
        "System", "runs", DICE.title, HD95.title, "parameters 10⁶", "GFLOP a patch", "patch zyx", "batch", "steps",
        "pretraining steps", "s a step", "peak GiB", "hours", "hardware",
    )  # fmt: skip
    sections = [Section(setting.title, tuple(_budget_rows(setting))) for setting in settings]
    note = (
        "GFLOP: forward pass of one patch, a multiply-add counts as two. Seconds a step: median of the log, whatever "
        "else the machine did meanwhile; hours: with those of the pretraining. Means over runs, of memory the largest."
    )
    words = (0, len(head) - 1)
    return Table("budget", "What the scores cost", head, tuple(sections), note, words)


def _budget_rows(setting: Setting) -> Iterator[Row]:
    dice, hd95 = (statistics_of(setting.of(metric)) for metric in (DICE, HD95))
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
