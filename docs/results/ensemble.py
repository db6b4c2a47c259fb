"""Writes ensemble.md and its figure: `make ensemble`. What averaging five folds brings.

plan → crossval → export → predict, on the two parts of the hippocampus in MRI. The cases that test are in no fold. What
is finished is not done again.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from hippocampus import ROOT, trained_on, written_by
from matplotlib.figure import Figure

from segsync.bundle import load_bundle
from segsync.geometry import Volume
from segsync.pipeline import Case, Options, Pipeline
from segsync.predict import Model, task_of
from segsync_train.config.labels import LabelSet
from segsync_train.data.dataset import find_cases, read_label
from segsync_train.data.layout import CaseFiles
from segsync_train.evaluation.crossval import crossval, crossval_settings
from segsync_train.evaluation.metrics import RULES
from segsync_train.evaluation.pooling import Pooled, interval
from segsync_train.evaluation.prediction_folders import score_case
from segsync_train.export.export import export
from segsync_train.planning.plan import plan
from segsync_train.runs.checkpoints import load_checkpoint
from segsync_train.runs.folder import RunFolder

HERE = Path(__file__).parent
LABELS = LabelSet(labels={1: "anterior", 2: "posterior"})
TASK = "hippocampus"
#: Metrics of the page, and whether larger is better.
METRICS = {"dice": ("Dice", True), "hd95_mm": ("HD95, mm", False), "assd_mm": ("ASSD, mm", False)}

Values = npt.NDArray[np.float64]
#: Means over the labels of each case (systems, cases), by metric: the ensemble last.
Measured = dict[str, Values]


@dataclass(frozen=True)
class Made:
    """What the way from cases to weights gave."""

    settings: list[str]
    table: tuple[Pooled, ...]
    runs: list[RunFolder]
    weights: Path
    trained: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "hippocampus")
    parser.add_argument("--runs", type=Path, default=ROOT / "test" / "output" / "ensemble")
    parser.add_argument("--docs", type=Path, default=HERE.parent, help="where results/ and images/ are written")
    parser.add_argument("--test", type=int, default=60, help="cases that no fold sees")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--memory", default="4GB", help="what training may take")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE over the planned settings")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    everything = find_cases("nnunet", arguments.data, ["mri"])
    drawn = set(np.random.default_rng(0).permutation(len(everything))[: arguments.test].tolist())
    test = [case for number, case in enumerate(everything) if number in drawn]
    kept = [case for number, case in enumerate(everything) if number not in drawn]
    made = trained(folder_of(kept, arguments.runs / "cases"), arguments)
    measured = predicted(made.weights, test)
    figure(measured["dice"]).savefig(arguments.docs / "images" / "ensemble.png", dpi=150)
    path = arguments.docs / "results" / "ensemble.md"
    path.write_text(page(made, measured, arguments), encoding="utf-8")
    sys.stdout.write(f"{path}\n")


def folder_of(cases: Sequence[CaseFiles], folder: Path) -> Path:
    """A folder in nnU-Net's format that holds these cases alone, by links."""
    for case in cases:
        for part, path in (("imagesTr", case.images["mri"]), ("labelsTr", case.label_files[0])):
            link = folder / part / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(path.resolve())
    about = {"channel_names": {"0": "mri"}, "labels": {"background": 0, "anterior": 1, "posterior": 2}}
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def trained(cases: Path, arguments: argparse.Namespace) -> Made:
    """`plan`, `crossval` and `export`, as the commands do them."""
    settings, output = arguments.runs / "settings.yaml", arguments.runs / "cv"
    plan(cases, settings, device="cpu", memory=arguments.memory, folds=arguments.folds, task=TASK)
    config = crossval_settings(output, settings, arguments.set, None)
    table = crossval(config, output).table
    runs = [RunFolder(output / f"fold-{fold}") for fold in range(arguments.folds)]
    weights = export([run.folder for run in runs], arguments.runs / "weights")
    named = [f"patch {' × '.join(map(str, config.patch_zyx))}", f"batch {config.batch}", f"{config.steps} steps"]
    named.append(f"the {config.network.preset} preset")
    trained = len(list((cases / "imagesTr").iterdir()))
    return Made(named, table, runs, weights, trained)


def predicted(weights: Path, test: Sequence[CaseFiles]) -> Measured:
    """Every network by itself, then their mean, on the same cases; windows as `segsync predict --tta none` has them."""
    bundle = load_bundle(weights)
    model = Model(bundle, task_of(bundle.spec), device="cpu")
    systems = [Pipeline(bundle.spec, engine) for engine in model.engines]
    found: dict[str, list[list[float]]] = {metric: [] for metric in METRICS}
    for system in (*systems, model.pipeline):
        rows = [_scores(system, files) for files in test]
        for metric in METRICS:
            found[metric].append([row[metric] for row in rows])
    return {metric: np.array(values) for metric, values in found.items()}


def _scores(system: Pipeline, files: CaseFiles) -> dict[str, float]:
    segmented = system.segment(Case(files.name, files.images), Options())
    label, mask = read_label(files, LABELS.labels), Volume(segmented.mask, segmented.grid)
    rows = score_case(files.name, label, mask, LABELS, RULES["isles22"])
    return {metric: float(np.mean([getattr(row.scores, metric) for row in rows])) for metric in METRICS}


def page(made: Made, measured: Measured, arguments: argparse.Namespace) -> str:
    """The page; what it concludes is decided by the intervals."""
    count = measured["dice"].shape[1]
    hours = sum(load_checkpoint(run.last).state["hours"] for run in made.runs)
    lines = [
        "# What averaging the folds brings",
        "",
        f"{written_by('ensemble', arguments)}, on {trained_on(made.runs)}, {60 * hours:.0f} minutes for all folds. "
        f"The two parts of the hippocampus in MRI (Medical Segmentation Decathlon Task04): {made.trained} cases were "
        f"planned for and cross-validated, {count} others, drawn by lot, were in no fold and test here. Settings are "
        f"those that `segsync-train plan --memory {arguments.memory}` writes ({', '.join(made.settings)})"
        + (
            f", but for {', '.join(f'`{one}`' for one in arguments.set)}: short, to take minutes"
            if arguments.set
            else ""
        )
        + ".",
        "",
        _verdict(measured["dice"]),
        "",
        "![Each test case: the ensemble's Dice against the mean of its members'](../images/ensemble.png)",
        "",
        "## Out of fold",
        "",
        "Every case as the one network saw it that did not train on it; 95 % intervals are bootstraps over subjects. "
        "No ensemble can be scored so, since four of its five networks trained on each case: the next table's cases "
        "are those that none of them saw.",
        "",
        "| part | metric | cases | mean | 95 % interval | folds |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {row.name} | {METRICS[row.metric][0]} | {row.n} | {row.mean:.3f} | {row.low:.3f} to {row.high:.3f} | "
            f"{' '.join(f'{value:.3f}' for value in row.folds)} |"
            for row in made.table
            if row.metric in METRICS
        ),
        "",
        "## On cases that no fold saw",
        "",
        "Means of both parts over the test cases, without mirroring. The difference is the ensemble's, case by case, "
        f"to the mean of its {len(measured['dice']) - 1} members' scores; its 95 % interval a bootstrap over cases.",
        "",
        "| metric | members | their mean | best member | ensemble | difference | 95 % interval |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_row(metric, values) for metric, values in measured.items()),
    ]
    return "\n".join(lines) + "\n"


def figure(dice: Values) -> Figure:
    """Left: Dice of every test case, a box a system. Right: the ensemble less its members' mean, case by case."""
    drawn = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = drawn.subplots(1, 2, width_ratios=(3, 2))
    names = [*(f"fold {number}" for number in range(len(dice) - 1)), "ensemble"]
    boxes = left.boxplot(list(dice), tick_labels=names, patch_artist=True, medianprops={"color": "black"})
    for box, name in zip(boxes["boxes"], names, strict=True):
        box.set_facecolor("#0072B2" if name == "ensemble" else "#d9dee3")
    left.set_ylabel(f"Dice of {dice.shape[1]} test cases")
    each = np.sort(dice[-1] - dice[:-1].mean(axis=0))
    mean, low, high = _difference(dice)
    right.axhline(0, color="#999999", linewidth=1)
    right.plot(each, "o", color="#0072B2", markersize=3.5)
    right.axhspan(low, high, color="#E69F00", alpha=0.35, linewidth=0)
    right.axhline(mean, color="#E69F00", label="mean and its 95 % interval")
    right.set_xlabel("test cases, in order")
    right.set_ylabel("Dice: ensemble - mean of members")
    right.legend(frameon=False, loc="upper left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return drawn


def _row(metric: str, values: Values) -> str:
    title, larger = METRICS[metric]
    means, (difference, low, high) = values.mean(axis=1), _difference(values)
    best = means[:-1].max() if larger else means[:-1].min()
    members = " ".join(f"{mean:.3f}" for mean in means[:-1])
    return (
        f"| {title} | {members} | {means[:-1].mean():.3f} | {best:.3f} | {means[-1]:.3f} | {difference:+.4f} | "
        f"{low:+.4f} to {high:+.4f} |"
    )


def _difference(values: Values) -> tuple[float, float, float]:
    """The ensemble to the mean of its members, of (systems, cases): mean over the cases, and its interval."""
    each = values[-1] - values[:-1].mean(axis=0)
    low, high = interval(each, [str(case) for case in range(len(each))])
    return float(each.mean()), low, high


def _verdict(dice: Values) -> str:
    difference, low, high = _difference(dice)
    means = dice.mean(axis=1)
    if low > 0:
        said = f"The ensemble's Dice is better than the mean of its members', by {difference:.4f}"
    elif high < 0:
        said = f"The ensemble's Dice is worse than the mean of its members', by {-difference:.4f}"
    else:
        said = f"These cases do not tell the ensemble's Dice from the mean of its members' ({difference:+.4f})"
    over = "no better" if means[-1] <= means[:-1].max() else f"{means[-1] - means[:-1].max():.4f} better"
    return f"{said}; than the best of its members, which nobody could have known beforehand, it is {over}."


if __name__ == "__main__":
    main()
