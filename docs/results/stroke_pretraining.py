"""Writes stroke-pretraining.md and its figure: `make stroke-pretraining`. isles22 with it and without.

A run that was cut off goes on where it was; runs that are finished are not run again.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hippocampus import CONFIGS, ROOT, Measured, gain, trained_on, written_by
from matplotlib.figure import Figure
from synthetic_cases import SIZES_ML, table

from segsync_train.config.run import RunConfig
from segsync_train.config.settings import load_settings
from segsync_train.runs.folder import RunFolder, read_log
from segsync_train.ssl.config import PretrainConfig
from segsync_train.trainer.finetune import finetune
from segsync_train.trainer.pretrain import pretrain

DOCS = Path(__file__).parents[1]
#: How fine-tuning starts, with its name on the page and its colour (Okabe and Ito).
STARTS = {"none": ("scratch", "#555555"), "full": ("3D-SegSync", "#0072B2")}
#: Evaluations of a run: an encoder that knows something shows it early, if at all.
TIMES = 3

Values = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=Path, default=ROOT / "data")
    parser.add_argument("--runs", type=Path, default=ROOT / "test" / "output" / "stroke-pretraining")
    parser.add_argument("--cache", type=Path, default=ROOT / "test" / "output" / "synthesis-cache")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE over the settings of fine-tuning")
    parser.add_argument("--pretrain-set", action="append", default=[], help="KEY=VALUE over those of pretraining")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    where = [f"data.sources={options.sources}", f"data.cache={options.cache}"]
    encoder = RunFolder(options.runs / "pretrain")
    chosen = load_settings(PretrainConfig, CONFIGS / "pretrain-isles22.yaml", [*where, *options.pretrain_set])
    pretrain(chosen, encoder.folder, resume=encoder.begun)
    settings = load_settings(RunConfig, CONFIGS / "isles22-easy.yaml", [*where, *options.set])
    runs = {start: fine_tuned(settings, start, encoder.best, options.runs) for start in STARTS}
    figure(runs).savefig(DOCS / "images" / "stroke-pretraining.png", dpi=150)
    path = DOCS / "results" / "stroke-pretraining.md"
    path.write_text(page(runs, encoder, chosen, settings, options), encoding="utf-8")
    sys.stdout.write(f"{path}\n")


def fine_tuned(settings: RunConfig, start: str, encoder: Path, runs: Path) -> RunFolder:
    """Fine-tune from the encoder, or from scratch, on the same cases in the same order."""
    checkpoint = None if start == "none" else encoder
    changed = {
        "name": STARTS[start][0],
        "transfer": settings.transfer.model_copy(update={"mode": start, "checkpoint": checkpoint}),
        "validation": settings.validation.model_copy(update={"every": -(-settings.steps // TIMES)}),
    }
    folder = RunFolder(runs / start)
    finetune(settings.model_copy(update=changed), folder.folder, resume=folder.begun)
    return folder


def evaluations(run: RunFolder) -> list[dict[str, Any]]:
    """The lines of a run's log that hold scores of the validation cases."""
    return [line for line in read_log(run.folder) if "validation/cases" in line]


def dice(line: dict[str, Any]) -> Values:
    """Dice (cases,) of one evaluation."""
    return np.array([case["dice"][0] for case in line["validation/cases"]])


def figure(runs: dict[str, RunFolder]) -> Figure:
    """The loss of training, smoothed, and Dice of the validation cases against the steps."""
    drawn = Figure(figsize=(8.0, 3.2), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for start, run in runs.items():
        name, colour = STARTS[start]
        lines = [line for line in read_log(run.folder) if "train/loss" in line]
        width = max(1, len(lines) // 20)
        loss = np.convolve([line["train/loss"] for line in lines], np.ones(width) / width, "valid")
        left.plot([line["step"] for line in lines][width - 1 :], loss, color=colour, label=name)
        scores = evaluations(run)
        means = [dice(line).mean() for line in scores]
        right.plot([line["step"] for line in scores], means, color=colour, marker="o", label=name)
    left.set_ylabel("loss of training")
    right.set_ylabel("mean Dice of the validation cases")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xlabel("steps of fine-tuning")
        axes.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, loc="lower right")
    return drawn


def page(
    runs: dict[str, RunFolder], encoder: RunFolder, pretraining: PretrainConfig, settings: RunConfig, options: Any
) -> str:
    """The page, in Markdown."""
    last = {start: evaluations(run)[-1] for start, run in runs.items()}
    with_lesion = np.array([case["lesions"] > 0 for case in last["none"]["validation/cases"]])
    found = {start: Measured(dice(line)[None, with_lesion], 0.0, (runs[start],)) for start, line in last.items()}
    monitors = next(line for line in reversed(read_log(encoder.folder)) if "held_out/probe" in line)
    difference = "{:+.3f}, 95 % confidence interval {:+.3f} to {:+.3f}".format(*gain(found["full"], found["none"]))
    patch = "·".join(map(str, settings.patch_zyx))
    count = len(last["none"]["validation/cases"])
    lines = [
        "# Stroke: what pretraining without labels gives",
        "",
        f"{written_by('stroke-pretraining', options)}, trained on {trained_on(runs.values())}. What the recipe of "
        f"`isles22` begins with ([settings](../../training/configs/isles22-easy.yaml)), {settings.steps} steps of "
        f"{settings.batch} patches of {patch} voxels, once from scratch and once from an encoder that was pretrained "
        f"for {pretraining.steps} steps of {pretraining.batch} on synthetic images without their labels "
        "([settings](../../training/configs/pretrain-isles22.yaml)). Both see the same cases in the same order; "
        f"{count} other synthetic cases are scored, with the last weights, at a threshold of 0.5.",
        "",
        "![Loss and Dice against the steps](../images/stroke-pretraining.png)",
        "",
        "Mean Dice by the volume of a case's lesions:",
        "",
        *table(("lesion volume", "cases", *(name for name, _ in STARTS.values())), list(rows(last))),
        "",
        f"3D-SegSync minus scratch over the {with_lesion.sum()} cases with a lesion: {difference} (bootstrap; how "
        "much a repetition of either training would differ is not in it).",
        "",
        "At the end of pretraining, on cases held out from it: of the other volumes "
        f"{100 * monitors['held_out/probe']:.0f} % lie farther from a view than the second view of its own volume does "
        f"(chance is 50), and the deepest features vary in {monitors['held_out/rank']:.0f} directions (RankMe, "
        "bounded by the number of volumes).",
    ]
    return "\n".join(lines) + "\n"


def rows(last: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Mean Dice by volume of the lesions, then the volume found where there is none."""
    cases = {start: line["validation/cases"] for start, line in last.items()}
    lines = []
    for low, high in SIZES_ML:
        inside = [
            number for number, case in enumerate(cases["none"]) if case["lesions"] and low <= case["volume_ml"] < high
        ]
        title = f"{low:g} to {high:g} ml" if np.isfinite(high) else f"over {low:g} ml"
        if inside:
            means = (f"{np.mean([of[number]['dice'][0] for number in inside]):.3f}" for of in cases.values())
            lines.append((title, str(len(inside)), *means))
    empty = [number for number, case in enumerate(cases["none"]) if not case["lesions"]]
    if empty:
        false = (f"{np.mean([of[number]['predicted_ml'] for number in empty]):.2f} ml found" for of in cases.values())
        lines.append(("no lesion", str(len(empty)), *false))
    return lines


if __name__ == "__main__":
    main()
