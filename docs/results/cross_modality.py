"""Writes cross-modality.md and its figure: `make cross-modality`. Trained on one contrast, tested on all three.

A run that was cut off goes on where it was; runs that are finished are not run again.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from hippocampus import CONFIGS, ROOT, seeds_of, trained_on, written_by
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from segsync.drawing import draw_slice, grey_window
from segsync.images import read
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import load_settings
from segsync_train.data.cases import StoredCases
from segsync_train.data.dataset import build_cache, find_cases
from segsync_train.runs.checkpoints import load_checkpoint
from segsync_train.runs.devices import Processes, training_device
from segsync_train.runs.folder import RunFolder, read_log
from segsync_train.ssl.config import PretrainConfig
from segsync_train.synthesis.contrast import CONTRASTS
from segsync_train.synthesis.synthesize import render_brains
from segsync_train.trainer.finetune import finetune
from segsync_train.trainer.predictor import torch_pipeline
from segsync_train.trainer.pretrain import pretrain
from segsync_train.trainer.transfer import trained_network
from segsync_train.trainer.validation import validate

DOCS = Path(__file__).parents[1]
TITLES = {"t1": "T1-like", "t2": "T2-like", "ct": "CT-like"}
#: How training starts, with its name on the page.
STARTS = {"none": "scratch", "full": "pretrained on all three, without labels"}
SPACING_MM = 2.0

Values = npt.NDArray[np.float64]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heads:
    """Whose images train, and whose test, in every contrast and every run."""

    training: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """Mean Dice of the four structures (trained on, tested on, seed, head), how long a run took, and the runs."""

    dice: Values
    minutes: float
    runs: tuple[RunFolder, ...]

    @property
    def matrix(self) -> Values:
        """Its mean over seeds and heads: a row for each contrast trained on, a column for each tested on."""
        matrix: Values = self.dice.mean((2, 3))
        return matrix

    def heads(self, same: bool) -> Values:
        """Mean of each test head (heads,): where the contrast was trained on, or over the others."""
        chosen: Values = self.dice[np.eye(len(self.dice), dtype=bool) == same].mean((0, 1))
        return chosen


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--label-maps", type=Path, default=ROOT / "data" / "brain-label-maps")
    parser.add_argument("--runs", type=Path, default=ROOT / "test" / "output" / "cross-modality")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where results/ and images/ are written")
    parser.add_argument("--training-heads", type=int, default=12, help="the rest test")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE over the settings of fine-tuning")
    parser.add_argument("--pretrain-set", action="append", default=[], help="KEY=VALUE over those of pretraining")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    cases = options.runs / "cases"
    render_brains(options.label_maps, cases, SPACING_MM)
    names = [case.name for case in find_cases("nnunet", cases / "t1", ["image"])]
    if not 0 < options.training_heads < len(names):
        parser.error(
            f"--training-heads: expected 1 to {len(names) - 1} of {len(names)}, found {options.training_heads}"
        )
    heads = Heads(tuple(names[: options.training_heads]), tuple(names[options.training_heads :]))
    pretrained = pretrained_encoder(cases, heads, options)
    measured = {start: measure(start, cases, heads, pretrained.best, options) for start in STARTS}
    picture = options.docs / "images" / "cross-modality.png"
    text = options.docs / "results" / "cross-modality.md"
    for path in (picture, text):
        path.parent.mkdir(parents=True, exist_ok=True)
    figure(measured, cases, heads.test[0]).savefig(picture, dpi=150)
    text.write_text(page(measured, heads, pretrained, options), encoding="utf-8")
    sys.stdout.write(f"{text}\n")


def pretrained_encoder(cases: Path, heads: Heads, options: argparse.Namespace) -> RunFolder:
    """Pretrain on the training heads in all contrasts, without their labels."""
    folders = ", ".join(f"{{folder: {cases / contrast}, layout: nnunet}}" for contrast in CONTRASTS)
    where = [
        f"data.folders=[{folders}]",
        f"data.exclude=[{', '.join(heads.test)}]",
        f"data.cache={options.runs / 'cache'}",
    ]
    config = load_settings(PretrainConfig, CONFIGS / "pretrain-cross-modality.yaml", [*where, *options.pretrain_set])
    folder = RunFolder(options.runs / "pretrain")
    pretrain(config, folder.folder, resume=folder.begun)
    return folder


def measure(start: str, cases: Path, heads: Heads, pretrained: Path, options: argparse.Namespace) -> Measured:
    """Fine-tune on each contrast, once a seed, and test the last weights on every contrast of the test heads."""
    dice = np.zeros((len(CONTRASTS), len(CONTRASTS), options.seeds, len(heads.test)))
    minutes, runs = [], []
    for seed in range(options.seeds):
        for row, trained in enumerate(CONTRASTS):
            where = [
                f"name={trained} {start} {seed}",
                f"seed={seed}",
                f"data.folder={cases / trained}",
                f"data.cache={options.runs / 'cache'}",
                f"data.training_cases=[{', '.join(heads.training)}]",
                f"data.validation_cases=[{', '.join(heads.test)}]",
                f"transfer={{mode: {start}, checkpoint: {'null' if start == 'none' else pretrained}}}",
            ]
            config = load_settings(RunConfig, CONFIGS / "cross-modality.yaml", [*where, *options.set])
            folder = RunFolder(options.runs / f"{start}-{trained}-{seed}")
            finetune(config, folder.folder, resume=folder.begun)
            speeds = [line["train/steps_per_second"] for line in read_log(folder.folder) if "train/loss" in line]
            minutes.append(config.steps / float(np.mean(speeds)) / 60)
            runs.append(folder)
            folders = [cases / tested for tested in CONTRASTS]
            for column, found in enumerate(tested_on(folder, folders, heads, options.runs / "cache")):
                dice[row, column, seed] = found
                log.info("%s, tested on %s: Dice %.3f", config.name, folders[column].name, found.mean())
    return Measured(dice, float(np.mean(minutes)), tuple(runs))


def tested_on(run: RunFolder, folders: Sequence[Path], heads: Heads, cache: Path) -> Iterator[Values]:
    """Mean Dice of each test head (heads,) in each folder, by the run's last weights."""
    config, network = trained_network(load_checkpoint(run.last))
    device = training_device(config.device, Processes())
    network.to(device)
    pipeline = torch_pipeline(config.inference_spec(network.multiple_zyx), network, device, config.amp)
    for folder in folders:
        found = find_cases("nnunet", folder, [channel.name for channel in config.channels])
        cases = StoredCases(build_cache([case for case in found if case.name in heads.test], config.case_spec, cache))
        scores = validate(network, cases, pipeline, config.validation.overlap)
        yield np.array([np.mean(score.dice) for _, _, score in scores])


def gain(measured: dict[str, Measured], same: bool) -> str:
    """Mean difference of Dice that pretraining makes, and its 95 % confidence interval (bootstrap over heads, BCa)."""
    difference = measured["full"].heads(same) - measured["none"].heads(same)
    if len(difference) < 2 or np.ptp(difference) == 0:
        return f"{difference.mean():+.3f}"
    found = stats.bootstrap((difference,), np.mean, rng=np.random.default_rng(0), n_resamples=9999).confidence_interval
    return f"{difference.mean():+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def figure(measured: dict[str, Measured], cases: Path, head: str) -> Figure:
    """One head in the three contrasts, and the matrices below: from scratch, pretrained, their difference."""
    drawn = Figure(figsize=(9.0, 6.4), layout="constrained")
    above, below = drawn.subplots(2, 3)
    for axes, (contrast, title) in zip(above, TITLES.items(), strict=True):
        image = read(cases / contrast / "imagesTr" / f"{head}_0000.nii.gz").array
        axes.imshow(draw_slice(image[round(0.6 * len(image))], grey_window(image, (0.0, 100.0))))
        axes.set_title(title)
        axes.set_axis_off()
    scratch, full = (measured[start].matrix for start in STARTS)
    largest = max(float(np.abs(full - scratch).max()), 0.01)
    heat_map(below[0], scratch, "Dice from scratch", "viridis", (0.0, 1.0), ".2f")
    heat_map(below[1], full, "Dice pretrained", "viridis", (0.0, 1.0), ".2f")
    heat_map(below[2], full - scratch, "difference", "RdBu", (-largest, largest), "+.2f")
    below[0].set_ylabel("trained on")
    return drawn


def heat_map(axes: Axes, matrix: Values, title: str, colours: str, limits: tuple[float, float], shape: str) -> None:
    """A matrix in colours with its values written in."""
    axes.imshow(matrix, cmap=colours, vmin=limits[0], vmax=limits[1])
    for (row, column), value in np.ndenumerate(matrix):
        dark = value < np.mean(limits) if colours == "viridis" else abs(value) > 0.7 * limits[1]
        axes.text(column, row, f"{value:{shape}}", ha="center", va="center", color="white" if dark else "black")
    axes.set_xticks(range(len(TITLES)), list(TITLES.values()))
    axes.set_yticks(range(len(TITLES)), list(TITLES.values()))
    axes.set_xlabel("tested on")
    axes.set_title(title)


def page(measured: dict[str, Measured], heads: Heads, pretrained: RunFolder, options: argparse.Namespace) -> str:
    """The page, in Markdown."""
    minutes = np.mean([found.minutes for found in measured.values()])
    runs = [run for found in measured.values() for run in found.runs]
    same, other = (gain(measured, kind) for kind in (True, False))
    lines = [
        "# Trained on one contrast, tested on another",
        "",
        f"{written_by('cross-modality', options)}, trained on {trained_on(runs)}. The paper (appendix B, figure 9) "
        "says of pretraining without labels that its features are independent of the modality. Here the same brains "
        "are seen in three ways, so that nothing but the contrast differs: anatomical label maps rendered as "
        "T1-weighted MRI, T2-weighted MRI and CT "
        "([contrast.py](../../training/segsync_train/synthesis/contrast.py)), without skull, at "
        f"{SPACING_MM:g} mm. {len(heads.training)} heads train, {len(heads.test)} test; grey matter, white matter, "
        "ventricles and deep grey matter are to be found.",
        "",
        f"Pretraining: {last_step(pretrained)} steps on the {len(heads.training)} training heads in all three "
        "contrasts, without labels "
        "([settings](../../training/configs/pretrain-cross-modality.yaml)). Fine-tuning: one contrast with labels, "
        f"{last_step(runs[0])} steps, {minutes:.0f} minutes a run, {seeds_of(options)}, the same for both starts "
        "([settings](../../training/configs/cross-modality.yaml)). The last weights are scored, once.",
        "",
        "![The three contrasts, and Dice of every pair](../images/cross-modality.png)",
        "",
        "Mean Dice of the four structures ± standard deviation over test heads.",
        "",
    ]
    for start, name in STARTS.items():
        lines += [f"Start: {name}.", "", *table(measured[start]), ""]
    lines += [
        "What pretraining changes, and its 95 % confidence interval (bootstrap over test heads): "
        f"{same} on the contrast that was trained on, {other} on the other two.",
        "",
        "## Not shown",
        "",
        f"Synthetic images of healthy brains, {len(heads.test)} test heads, a small network and a short training: "
        "between real scanners, and between the heart in CT and in MRI, it may be otherwise.",
    ]
    return "\n".join(lines) + "\n"


def last_step(run: RunFolder) -> int:
    """How long a run was."""
    return int(read_log(run.folder)[-1]["step"])


def table(found: Measured) -> Iterator[str]:
    """Rows of Markdown: a contrast that was trained on each."""
    yield f"| trained on | {' | '.join(f'tested on {title}' for title in TITLES.values())} |"
    yield "| --- " * (len(TITLES) + 1) + "|"
    for title, row in zip(TITLES.values(), found.dice.mean(2), strict=True):
        spread = [f" ± {cell.std(ddof=1):.3f}" if len(cell) > 1 else "" for cell in row]
        yield f"| {title} | {' | '.join(f'{cell.mean():.3f}{s}' for cell, s in zip(row, spread, strict=True))} |"


if __name__ == "__main__":
    main()
