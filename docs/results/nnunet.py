"""Writes nnunet.md: `make nnunet`. nnU-Net's own package on the hippocampus split, and this project beside it.

The package is no dependency: it lives in an environment of its own, which this script builds, and has its own plan,
augmentation and loop. What is finished is not run again.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hippocampus import CONFIGS, ROOT, written_by
from nnunet_environment import PACKAGES, environment

from segsync.atomic import whole_file
from segsync_train.comparison.scores import DICE, HD95, Run, read_run
from segsync_train.config.data import FolderData
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import load_settings
from segsync_train.data.dataset import find_cases
from segsync_train.data.splits import split_cases
from segsync_train.evaluation.evaluate import evaluate
from segsync_train.evaluation.summary import Statistic
from segsync_train.evaluation.system import SYSTEM_FILE
from segsync_train.runs.devices import hardware
from segsync_train.runs.folder import RunFolder
from segsync_train.trainer.finetune import finetune

HERE = Path(__file__).parent
DATASET = "Dataset004_Hippocampus"
#: What its command nnUNetv2_plan_and_preprocess calls.
PLAN = (
    "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry;"
    "plan_and_preprocess_entry()"
)
PLANNED = "nnUNetTrainer__nnUNetPlans__3d_fullres"
#: Ours by name: the recipe, and what is laid over it beside nnU-Net's patch and batch.
OURS = {
    "PlainConvUNet, nnU-Net's recipe in this loop": (
        "finetune-nnunet.yaml",
        ("network.preset=plainconv", "labels={1: anterior, 2: posterior}", "task=hippocampus",
         "channels=[{name: mri, normalisation: {kind: zscore}}]"),
    ),
    "xLSTM-UNet, this project's recipe": ("finetune-fast.yaml", ()),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "hippocampus")
    parser.add_argument("--runs", type=Path, default=ROOT / "test" / "output" / "nnunet")
    parser.add_argument("--docs", type=Path, default=HERE, help="where nnunet.md is written")
    parser.add_argument("--python", type=Path, help="the Python of an environment that has nnunetv2; else it is built")
    parser.add_argument("--steps", type=int, default=100, help="updates, in ten epochs")
    parser.add_argument("--cases", type=int, help="these first cases alone, a quarter of them to test")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    settings = load_settings(RunConfig, CONFIGS / "finetune-fast.yaml", [f"data.folder={options.data}"])
    python = options.python or environment(options.runs / "venv")
    training, test = parts_of(settings)
    if options.cases:
        test, training = training[: options.cases // 4], training[options.cases // 4 : options.cases]
    theirs, plan = nnunets(python, settings, training, test, options)
    rows = [row("nnU-Net's package, its own plan", read_run(str(options.runs / "scores" / "nnunet")), theirs)]
    for name, (recipe, changes) in OURS.items():
        rows.append(ours(name, recipe, changes, training, test, plan, options))
    page = options.docs / "nnunet.md"
    with whole_file(page) as part:
        part.write_text(text(rows, plan, len(training), len(test), options), encoding="utf-8")
    sys.stdout.write(f"{page}\n")


def parts_of(settings: RunConfig) -> tuple[list[str], list[str]]:
    """Names of the cases that train and of those that test, by the seeded split of finetune-fast."""
    data = settings.data
    assert isinstance(data, FolderData)
    split = split_cases(find_cases(data.layout, data.folder, ["mri"]), data, settings.label_set)
    return [case.name for case in split.training], [case.name for case in split.validation]


# --- nnU-Net's package ------------------------------------------------------------------------------------------------


def nnunets(
    python: Path, settings: RunConfig, training: list[str], test: list[str], options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Plan, preprocess, train and validate as its commands do; what the run cost, and its plan."""
    folders = {name: options.runs / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    made = {name: str(folder.resolve()) for name, folder in folders.items()}
    single = dict.fromkeys(("OMP_NUM_THREADS", "nnUNet_n_proc_DA", "nnUNet_def_n_proc"), "1")
    variables = {**os.environ, **made, **single, "nnUNet_compile": "false"}
    prepared = folders["nnUNet_preprocessed"] / DATASET
    if not (prepared / "nnUNetPlans.json").is_file():
        raw(folders["nnUNet_raw"] / DATASET, settings, [*training, *test], options.data)
        command = [str(python), "-c", PLAN, "-d", "4", "-c", "3d_fullres", "-np", "1", "-npfp", "1"]
        subprocess.run(command, check=True, env=variables)
    (prepared / "splits_final.json").write_text(json.dumps([{"train": training, "val": test}]), encoding="utf-8")
    cost = options.runs / f"nnunet-{options.steps}.json"
    if not cost.is_file():
        runner = [str(python), str(HERE / "nnunet_runner.py"), "4", str(options.steps), "10"]
        found = subprocess.run(runner, check=True, env=variables, stdout=subprocess.PIPE, text=True).stdout
        cost.write_text(found.splitlines()[-1], encoding="utf-8")
        predicted = folders["nnUNet_results"] / DATASET / PLANNED / "fold_0" / "validation"
        evaluate(
            predicted,
            options.runs / "scores" / "nnunet",
            references=labels_of(test, options),
            labels=settings.label_set,
        )
    plan = json.loads((prepared / "nnUNetPlans.json").read_text(encoding="utf-8"))["configurations"]["3d_fullres"]
    return json.loads(cost.read_text(encoding="utf-8")), plan


def raw(folder: Path, settings: RunConfig, names: Sequence[str], data: Path) -> None:
    """The cases in nnU-Net's layout, with the file that it wants beside them."""
    cases = [case for case in find_cases("nnunet", data, ["mri"]) if case.name in names]
    for case in cases:
        linked(case.images["mri"], folder / "imagesTr" / f"{case.name}_0000.nii.gz")
        linked(case.label_files[0], folder / "labelsTr" / f"{case.name}.nii.gz")
    about = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **{name: value for value, name in settings.labels.items()}},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(about), encoding="utf-8")


def labels_of(names: Sequence[str], options: argparse.Namespace) -> Path:
    """A folder with the references of these cases alone."""
    folder: Path = options.runs / "references"
    for name in names:
        linked(options.data / "labelsTr" / f"{name}.nii.gz", folder / f"{name}.nii.gz")
    return folder


def linked(file: Path, link: Path) -> None:
    """Make a link to a file, with the folders above it; one that is there stays."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(file.resolve())


# --- ours -------------------------------------------------------------------------------------------------------------


def ours(
    name: str, recipe: str, changes: Sequence[str], training: Sequence[str], test: Sequence[str],
    plan: dict[str, Any], options: argparse.Namespace,
) -> str:  # fmt: skip
    """Train with nnU-Net's patch, batch and number of updates, score, and give the row."""
    key = recipe.partition(".")[0]
    cases = f"training_cases: [{', '.join(training)}], validation_cases: [{', '.join(test)}]"
    overrides = [
        f"data={{kind: folder, folder: {options.data}, layout: nnunet, {cases}}}", *changes, f"steps={options.steps}",
        f"patch_zyx={list(patch_of(plan, recipe))}", f"batch={plan['batch_size']}", "spacing_zyx=[1, 1, 1]",
        "workers=1", f"validation.every={options.steps}", "validation.overlays=0", "log_every=5",
        "optimiser.warmup_steps=5",
    ]  # fmt: skip
    run = RunFolder(options.runs / f"{key}-{options.steps}")
    scores, cost = options.runs / "scores" / run.folder.name, options.runs / f"{key}-{options.steps}.json"
    config = load_settings(RunConfig, CONFIGS / recipe, overrides)
    if not cost.is_file():
        clock = Clock()
        finetune(config, run.folder, resume=run.begun, should_stop=clock)
        cost.write_text(json.dumps({"seconds": clock.seconds}), encoding="utf-8")
    if not (scores / SYSTEM_FILE).is_file():
        evaluate(run.folder, scores, checkpoint=run.last, mirror=bool(config.mirror_axes))
    found = read_run(str(scores))
    assert found.system.budget is not None
    about = json.loads(cost.read_text(encoding="utf-8"))
    return row(name, found, {**about, "parameters": found.system.budget.parameters})


class Clock:
    """Is asked after every step whether to stop, never does, and keeps the processor's time."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self) -> bool:
        self.times.append(time.process_time())
        return False

    @property
    def seconds(self) -> float:
        """Of a step, without the first."""
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)


def patch_of(plan: dict[str, Any], recipe: str) -> tuple[int, ...]:
    """nnU-Net's patch; the xLSTM-UNet's strides ask for multiples of 16."""
    sides = [int(side) for side in plan["patch_size"]]
    return tuple(sides) if "nnunet" in recipe else tuple(-(-side // 16) * 16 for side in sides)


# --- the page ---------------------------------------------------------------------------------------------------------


def row(name: str, run: Run, cost: dict[str, Any]) -> str:
    """A row of the table: mean Dice and HD95 of both labels over cases."""
    cells = []
    for metric, number in ((DICE, 0), (HD95, 2)):
        values = [sum(run.values[case, label][number] for label in run.labels) / len(run.labels) for case in run.cases]
        found = Statistic.of(values)
        cells.append(f"{found.mean:.{metric.digits}f} ± {found.sd:.{metric.digits}f}")
    return f"| {name} | {cost['parameters'] / 1e6:.2f} | {' | '.join(cells)} | {cost['seconds']:.2f} |"


def text(rows: Sequence[str], plan: dict[str, Any], training: int, test: int, options: argparse.Namespace) -> str:
    """The page."""
    patch = "×".join(str(side) for side in plan["patch_size"])
    lines = [
        "# nnU-Net's own package beside this project",
        "",
        f"{written_by('nnunet', options)}, with {' and '.join(PACKAGES)}, on "
        f"{hardware(torch.device('cpu'))}. The hippocampus set: {training} cases to "
        f"train on, {test} to test, the same for all, by the seed of the split. {options.steps} updates each, of "
        f"{plan['batch_size']} patches of {patch} voxels, nnU-Net's plan (the xLSTM-UNet's sides are the next "
        "multiples of 16); last weights; one seed. nnU-Net plans for 1000 epochs of 250: nothing here is trained to "
        "its end, and the table tells whether both loops learn alike in as many updates, and what an update costs.",
        "",
        "| system | parameters 10⁶ | Dice | HD95 mm | seconds of a processor a step |",
        "| --- | ---: | ---: | ---: | ---: |",
        *rows,
        "",
        "Seconds of the training process, one thread: forward, loss, backward, update; data come from another process. "
        "Mirrored copies are averaged where the training mirrors (nnU-Net's and its recipe's).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
