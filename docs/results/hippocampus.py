"""Writes hippocampus.md and its figure: `make hippocampus`. Pretraining without labels, then few labels and many.

A run that was cut off goes on where it was; runs that are finished are not run again.
"""

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from scipy import stats

from segsync.sliding_window import Windows
from segsync_train.config.data import FolderData
from segsync_train.config.run import RunConfig, TransferConfig
from segsync_train.config.settings import load_settings
from segsync_train.data.cases import StoredCases
from segsync_train.data.dataset import build_cache, find_cases
from segsync_train.data.splits import split_cases
from segsync_train.evaluation.probe import linear_probe
from segsync_train.networks.build import build_network
from segsync_train.networks.xlstm_unet import XLSTMUNet
from segsync_train.runs.checkpoints import load_checkpoint
from segsync_train.runs.folder import RunFolder, commit, read_log
from segsync_train.ssl.config import PretrainConfig
from segsync_train.trainer.finetune import finetune
from segsync_train.trainer.pretrain import pretrain
from segsync_train.trainer.transfer import transfer

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONFIGS = ROOT / "training" / "configs"
FRACTIONS = (0.05, 0.1, 0.25, 1.0)
#: How fine-tuning starts, with its name in the figure and its colour (Okabe and Ito).
STARTS = {"full": ("3D-SegSync", "#0072B2"), "bottom": ("3D-SegSync-Bottom", "#E69F00"), "none": ("scratch", "#555555")}

#: Fraction of the labelled cases that the linear probe is fitted on.
PROBE_FRACTION = FRACTIONS[0]

Values = npt.NDArray[np.float64]
Row = tuple[str, ...]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """Mean Dice of both labels in every test case (seeds, cases), how long a run took, and the runs."""

    dice: Values
    hours: float
    runs: tuple[RunFolder, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "hippocampus")
    parser.add_argument("--runs", type=Path, default=ROOT / "test" / "output" / "hippocampus")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE over the settings of fine-tuning")
    parser.add_argument("--pretrain-set", action="append", default=[], help="KEY=VALUE over those of pretraining")
    parser.add_argument("--longer", type=int, help="also train from scratch with all labels for so many steps")
    parser.add_argument("--longer-set", action="append", default=[], help="KEY=VALUE over the settings of that one")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    data = [f"data.folder={arguments.data}", f"data.cache={arguments.runs / 'cache'}"]
    settings = load_settings(RunConfig, CONFIGS / "finetune-fast.yaml", [*data, *arguments.set])
    run = arguments.runs / "pretrain"
    pretrained = pretrained_encoder(arguments.data, run, settings, arguments.pretrain_set).best
    measured = {}
    for fraction in FRACTIONS:
        for start in STARTS:
            checkpoint = None if start == "none" else pretrained
            chosen = settings.transfer.model_copy(update={"mode": start, "checkpoint": checkpoint})
            measured[fraction, start] = measure(settings, start, fraction, chosen, arguments.runs, arguments.seeds)
    longer = None
    if arguments.longer:
        changes = [*data, *arguments.set, f"steps={arguments.longer}", *arguments.longer_set]
        scratch = load_settings(RunConfig, CONFIGS / "finetune-fast.yaml", changes)
        longer = measure(scratch, "none", 1.0, scratch.transfer, arguments.runs / "longer", arguments.seeds)
    encoders = {
        "untrained": None,
        "pretrained": pretrained,
        "fine-tuned from scratch with all labels": measured[1.0, "none"].runs[0].last,
    }
    probes = {name: probed(settings, checkpoint) for name, checkpoint in encoders.items()}
    figure(measured).savefig(HERE.parent / "images" / "hippocampus.png", dpi=150)
    (HERE / "hippocampus.md").write_text(
        page(measured, longer, probes, settings, arguments, pretrained), encoding="utf-8"
    )
    sys.stdout.write(f"{HERE / 'hippocampus.md'}\n")


def pretrained_encoder(
    data: Path, run: Path, settings: RunConfig, overrides: list[str], config: str = "pretrain-hippocampus.yaml"
) -> RunFolder:
    """Pretrain on the training images, without their labels; the cases that will test are left out."""
    if not isinstance(settings.data, FolderData):
        raise TypeError("fine-tuning here is on a folder")
    names = [channel.name for channel in settings.channels]
    cases = find_cases(settings.data.layout, data, names)
    training = {case.name for case in split_cases(cases, settings.data).training}
    excluded = ",".join(case.name for case in cases if case.name not in training)
    where = [f"data.folders=[{{folder: {data}, layout: nnunet}}]", f"data.exclude=[{excluded}]"]
    folder = RunFolder(run)
    chosen = load_settings(PretrainConfig, CONFIGS / config, [*where, *overrides])
    pretrain(chosen, folder.folder, resume=folder.begun)
    return folder


def fine_tuned(
    settings: RunConfig, name: str, fraction: float, seed: int, transfer: TransferConfig, runs: Path
) -> RunFolder:
    """Fine-tune with this fraction of the labels; the test cases are scored once, after the last step."""
    data = settings.data.model_copy(update={"labelled": fraction})
    validation = settings.validation.model_copy(update={"every": settings.steps})
    title = f"{name}, {100 * fraction:g} % of the labels, seed {seed}"
    changed = {"name": title, "seed": seed, "data": data, "transfer": transfer, "validation": validation}
    folder = RunFolder(runs / f"{name}-{100 * fraction:g}-{seed}")
    finetune(settings.model_copy(update=changed), folder.folder, resume=folder.begun)
    return folder


def measure(
    settings: RunConfig, name: str, fraction: float, transfer: TransferConfig, runs: Path, seeds: int
) -> Measured:
    """Fine-tune once a seed."""
    dice, hours = [], 0.0
    done = tuple(fine_tuned(settings, name, fraction, seed, transfer, runs) for seed in range(seeds))
    for run in done:
        lines = read_log(run.folder)
        dice.append(last_scores(lines).mean(1))
        hours += (
            sum(settings.log_every / line["train/steps_per_second"] for line in lines if "train/loss" in line) / 3600
        )
    return Measured(np.array(dice), hours / seeds, done)


def last_scores(lines: list[dict[str, Any]]) -> Values:
    """Dice (cases, labels) of the last evaluation in a run's log."""
    cases = next(line["validation/cases"] for line in reversed(lines) if "validation/cases" in line)
    return np.array([case["dice"] for case in cases])


def probed(settings: RunConfig, checkpoint: Path | None) -> float:
    """Mean Dice of a linear probe over the test cases, fitted on PROBE_FRACTION of the labels; None: untrained."""
    if not isinstance(settings.data, FolderData) or settings.data.cache is None:
        raise TypeError("fine-tuning here is on a folder, whose cases are cached")
    torch.manual_seed(settings.seed)
    network = build_network(settings)
    if not isinstance(network, XLSTMUNet):
        raise TypeError("the probe here is of an xLSTM-UNet")
    if checkpoint is not None:
        transfer(network, TransferConfig(mode="full", checkpoint=checkpoint))
    cases = find_cases(settings.data.layout, settings.data.folder, [channel.name for channel in settings.channels])
    split = split_cases(cases, settings.data.model_copy(update={"labelled": PROBE_FRACTION}))
    folders = build_cache([*split.training, *split.validation], settings.case_spec, settings.data.cache)
    opened, count = StoredCases(folders), len(split.training)
    windows = Windows(settings.patch_zyx, network.multiple_zyx, settings.validation.overlap)
    scores = linear_probe(network.encoder, opened[:count], opened[count:], len(settings.labels), windows)
    return float(np.mean([score.dice for score in scores]))


def trained_on(runs: Iterable[RunFolder]) -> str:
    """The hardware that the runs were trained on, as their checkpoints have it."""
    return " and ".join(sorted({str(load_checkpoint(run.last).state["hardware"]) for run in runs}))


def gain(with_it: Measured, without: Measured) -> tuple[float, float, float]:
    """Mean difference of Dice over test cases, and its 95 % confidence interval (bootstrap over cases, BCa)."""
    difference = (with_it.dice - without.dice).mean(0)
    found = stats.bootstrap((difference,), np.mean, rng=np.random.default_rng(0), n_resamples=9999)
    return float(difference.mean()), float(found.confidence_interval.low), float(found.confidence_interval.high)


def written_by(target: str, options: argparse.Namespace) -> str:
    """The command that a page came of, as a person would type it."""
    given = [
        f"--{name} {value}"
        for name in ("seeds", "longer", "steps", "cases")
        if (value := getattr(options, name, 1) or 1) > 1
    ]
    for name in ("set", "pretrain_set", "longer_set"):
        given += [f"--{name.replace('_', '-')} {setting}" for setting in getattr(options, name, ())]
    with_options = f" OPTIONS='{' '.join(given)}'" if given else ""
    return f"Written by `make {target}{with_options}` at commit {commit()}"


def seeds_of(options: argparse.Namespace) -> str:
    """How many seeds, in words."""
    return f"{options.seeds} seed{'' if options.seeds == 1 else 's'}"


def figure(measured: dict[tuple[float, str], Measured]) -> Figure:
    """Dice against the fraction of labels, with 95 % intervals over test cases."""
    drawn = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = drawn.add_subplot()
    for number, (start, (name, colour)) in enumerate(STARTS.items()):
        means = [measured[fraction, start].dice.mean() for fraction in FRACTIONS]
        errors = [1.96 * stats.sem(measured[fraction, start].dice.mean(0)) for fraction in FRACTIONS]
        places = np.array(FRACTIONS) * 100 * 1.03 ** (number - 1)
        axes.errorbar(places, means, errors, color=colour, marker="o", capsize=3, label=name)
    axes.set_xscale("log")
    axes.set_xticks([100 * fraction for fraction in FRACTIONS], [f"{100 * fraction:g} %" for fraction in FRACTIONS])
    axes.minorticks_off()
    axes.set_xlabel("fraction of the 208 training cases whose labels are used")
    axes.set_ylabel("mean Dice of 52 test cases")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return drawn


def page(
    measured: dict[tuple[float, str], Measured],
    longer: Measured | None,
    probes: dict[str, float],
    settings: RunConfig,
    arguments: argparse.Namespace,
    pretrained: Path,
) -> str:
    """The page, in Markdown."""
    state = read_log(pretrained.parents[1])
    rows = list(table(measured))
    monitors = next(line for line in reversed(state) if "held_out/probe" in line)
    device = trained_on(run for found in measured.values() for run in found.runs)
    hours = np.mean([m.hours for m in measured.values()])
    lines = [
        "# Hippocampus: what pretraining without labels gives",
        "",
        f"{written_by('hippocampus', arguments)}, trained on {device}. Medical Segmentation Decathlon Task04: 260 "
        "MRI crops, anterior and posterior hippocampus; 208 to train on, 52 to test, by the seed of the split. "
        f"Pretraining: {state[-1]['step']} steps on the 208 images without labels "
        "([settings](../../training/configs/pretrain-hippocampus.yaml)). Fine-tuning: "
        f"{settings.steps} steps of {settings.batch} patches each, {60 * hours:.0f} minutes a run, "
        f"{seeds_of(arguments)}, the same for every row "
        "([settings](../../training/configs/finetune-fast.yaml)). The last weights are scored, once: nothing was "
        "chosen on the test cases.",
        "",
        "![Dice against the fraction of labels](../images/hippocampus.png)",
        "",
        "Mean Dice of both labels ± standard deviation over test cases; in brackets the difference from scratch and "
        "its 95 % confidence interval (bootstrap over cases).",
        "",
        *rows,
        "",
        verdict(measured),
        *(() if longer is None else ("", more_steps(measured[1.0, "none"], longer, settings, arguments))),
        "",
        "## Why so",
        "",
        headroom(measured),
        "",
        "What pretraining learns is another question. With the encoder frozen, a logistic regression on its "
        f"features, voxel by voxel, fitted on the {round(208 * PROBE_FRACTION)} cases of {100 * PROBE_FRACTION:g} % "
        "([probe.py](../../training/segsync_train/evaluation/probe.py)), reaches this mean Dice on the test cases:",
        "",
        "| encoder | Dice of the linear probe |",
        "| --- | --- |",
        *(f"| {name} | {dice:.3f} |" for name, dice in probes.items()),
        "",
        "At the end of pretraining, on volumes held out from it: of the other volumes "
        f"{100 * monitors['held_out/probe']:.0f} % lie farther from a view than the second view of its own volume does "
        f"(chance is 50), and the deepest features vary in {monitors['held_out/rank']:.0f} directions (RankMe, "
        "bounded by the number of volumes).",
    ]
    return "\n".join(lines) + "\n"


def verdict(measured: dict[tuple[float, str], Measured]) -> str:
    """What the intervals say."""
    better = [
        f"{name} with {100 * fraction:g} %"
        for fraction in FRACTIONS
        for start, (name, _) in STARTS.items()
        if start != "none" and gain(measured[fraction, start], measured[fraction, "none"])[1] > 0
    ]
    caution = "The intervals cover the differences between cases, not those between repetitions of a training."
    if better:
        return f"Better than from scratch by an interval that excludes zero: {', '.join(better)}. {caution}"
    return f"No start from pretrained weights is better than from scratch by an interval that excludes zero. {caution}"


def more_steps(short: Measured, longer: Measured, settings: RunConfig, arguments: argparse.Namespace) -> str:
    """What a longer training gives, by part of the hippocampus."""
    difference = "{:+.3f}, {:+.3f} to {:+.3f}".format(*gain(longer, short))
    scores = np.mean([last_scores(read_log(run.folder)) for run in longer.runs], axis=(0, 1))
    parts = " and ".join(f"{dice:.3f} ({name})" for dice, name in zip(scores, settings.labels.values(), strict=True))
    found = longer.dice.mean(0)
    return (
        f"From scratch with all labels, {arguments.longer} steps instead of {settings.steps}"
        f"{''.join(f', with `{change}`' for change in arguments.longer_set)} ({60 * longer.hours:.0f} minutes) reach "
        f"{found.mean():.3f} ± {found.std(ddof=1):.3f} ({difference}): {parts}."
    )


def headroom(measured: dict[tuple[float, str], Measured]) -> str:
    """What more labels give to a network from scratch, which bounds what better features could."""
    few, many = FRACTIONS[0], FRACTIONS[-1]
    least, most = (measured[fraction, "none"].dice.mean() for fraction in (few, many))
    return (
        f"From scratch, {round(many / few)} times the labels ({round(208 * many)} cases instead of "
        f"{round(208 * few)}) are worth {most - least:+.3f} of Dice. Features as good as those learned from all "
        "labels could give no more than that here."
    )


def table(measured: dict[tuple[float, str], Measured]) -> Iterator[str]:
    """Rows of Markdown: a fraction each."""
    yield f"| labels | {' | '.join(name for name, _ in STARTS.values())} |"
    yield "| --- " * (len(STARTS) + 1) + "|"
    for fraction in FRACTIONS:
        cells = []
        for start in STARTS:
            found = measured[fraction, start].dice.mean(0)
            cell = f"{found.mean():.3f} ± {found.std(ddof=1):.3f}"
            if start != "none":
                cell += " ({:+.3f}, {:+.3f} to {:+.3f})".format(
                    *gain(measured[fraction, start], measured[fraction, "none"])
                )
            cells.append(cell)
        count = round(208 * fraction)
        yield f"| {100 * fraction:g} % ({count} cases) | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
