"""Writes heart.md and its figures: `make heart`. The paper's systems on real hearts (ACDC), with few labels and many.

Runs that are finished are not run again, those that were cut off go on, at whatever moment. `--explore` tries settings
on hearts cut out of those that train, never on the test hearts, and writes heart-tried.csv. `--smoke` is the whole in
a minute: one step of tiny networks on six hearts.
"""

import argparse
import csv
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hippocampus import CONFIGS, ROOT, seeds_of, written_by

from segsync.atomic import whole_file
from segsync_train.comparison.compare import compare
from segsync_train.comparison.grouping import group_runs
from segsync_train.comparison.scores import DICE, Setting, read_run
from segsync_train.comparison.statistics import difference
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import load_settings
from segsync_train.data.dataset import find_cases
from segsync_train.evaluation.evaluate import evaluate
from segsync_train.evaluation.system import SYSTEM_FILE
from segsync_train.runs.folder import RunFolder
from segsync_train.ssl.config import PretrainConfig
from segsync_train.trainer.finetune import finetune
from segsync_train.trainer.pretrain import pretrain

DOCS = Path(__file__).parents[1]
#: Hearts that are tested, and those of the others that `--explore` tests instead.
TEST, EXPLORE = 20, 15
SPLIT_SEED = 0
DECODER = "decoder: {width: 128, depth: 2, heads: 4}"
#: The peers' pretexts with what fits them to patches of 8 slices.
PRETEXTS = {
    "mae": f"pretext={{kind: mae, {DECODER}}}",
    "hiendmae": f"pretext={{kind: hiendmae, {DECODER}}}",
    "voco": "pretext={kind: voco, bases_zyx: [1, 2, 2], zoom: 2, width: 256}",
    "swinssl": "pretext={kind: swinssl, width: 128}",
    "swinmm": "pretext={kind: swinmm, width: 128}",
}
SMOKE = (
    "patch_zyx=[4, 32, 32]", "spacing_zyx=[10, 8, 8]", "steps=1", "workers=0", "device=cpu",
    "network={preset: tiny, overrides: {widths: [4, 4, 8], vil_stages: [2], "
    "strides_zyx: [[1, 1, 1], [1, 2, 2], [1, 2, 2]]}}",
)  # fmt: skip


@dataclass(frozen=True)
class System:
    """What is trained. network: settings over the xLSTM-UNet's; pretext: `segsync`, a key of PRETEXTS, or none.

    pretraining, transfer: settings over those of the recipes. claim: whether every seed is run, not the first alone.
    """

    name: str
    key: str
    network: tuple[str, ...] = ()
    pretext: str | None = None
    pretraining: tuple[str, ...] = ()
    transfer: tuple[str, ...] = ()
    claim: bool = False


FULL = ("transfer.mode=full",)
SYSTEMS = (
    System("3D-SegSync", "segsync", pretext="segsync", transfer=FULL, claim=True),
    System("3D-SegSync-Bottom", "bottom", pretext="segsync", transfer=("transfer.mode=bottom",), claim=True),
    System("xLSTM-UNet", "scratch", claim=True),
    System("3D-nnUNet", "nnunet", ("network={preset: nnunet}",)),
    System("3D-ResUNet", "resunet", ("network={preset: resunet}",)),
    System("3D-UNet", "unet", ("network={preset: unet}",)),
    System("SwinSSL, xLSTM-UNet", "swinssl", pretext="swinssl", transfer=FULL),
    System("SwinMM, xLSTM-UNet", "swinmm", pretext="swinmm", transfer=FULL),
    System("VoCo, xLSTM-UNet", "voco", pretext="voco", transfer=FULL),
    System("Hi-End-MAE, xLSTM-UNet", "hiendmae", pretext="hiendmae", transfer=FULL),
    System("MAE, xLSTM-UNet", "mae", pretext="mae", transfer=FULL),
)
#: What `--explore` tries, one thing at a time, beside training from scratch and the recipe as it is.
TRIED = (
    System("scratch", "scratch"),
    System("recipe", "recipe", pretext="segsync", transfer=FULL),
    System("encoder frozen", "frozen", pretext="segsync", transfer=(*FULL, "transfer.freeze=[encoder]")),
    System(
        "encoder frozen for a quarter, then warmed up", "warmup", pretext="segsync",
        transfer=(*FULL, "transfer.freeze=[encoder]", "transfer.freeze_steps=QUARTER", "transfer.warmup_steps=QUARTER"),
    ),
    System("encoder at a tenth of the rate", "tenth", pretext="segsync", transfer=(*FULL, "transfer.lr_factor=0.1")),
    System("student kept", "student", pretext="segsync", pretraining=("keep=student",), transfer=FULL),
    System("pretrained three times as long", "longer", pretext="segsync", pretraining=("steps=TRIPLE",), transfer=FULL),
    System("no masked term", "unmasked", pretext="segsync", pretraining=("objective.masked=0",), transfer=FULL),
    System("stronger views", "views", pretext="segsync", transfer=FULL,
           pretraining=("views.zoom=[0.7, 1.6]", "views.strength=[-0.4, 0.4]", "views.jitter_gamma=[0.6, 1.6]")),
    System("MAE", "mae", pretext="mae", transfer=FULL),
    System("sparse MAE", "sparse", pretext="mae", transfer=FULL,
           pretraining=(f"pretext={{kind: mae, sparse: true, mask_stage: -1, {DECODER}}}",)),
)  # fmt: skip


@dataclass(frozen=True)
class Hearts:
    """Names of the hearts that train, in the order in which their labels are taken, and of those that test."""

    training: tuple[str, ...]
    test: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "acdc")
    parser.add_argument("--runs", type=Path, default=ROOT / "test" / "output" / "heart")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where results/ and images/ are written")
    parser.add_argument("--labels", type=int, nargs="+", help="labelled hearts; else 2, 5, 10 and all")
    parser.add_argument("--seeds", type=int, default=3, help="of the pairs that carry the claim; of the others one")
    parser.add_argument("--explore", action="store_true", help="try settings, on no test heart")
    parser.add_argument("--smoke", action="store_true", help="everything, in seconds")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE over the settings of fine-tuning")
    parser.add_argument("--pretrain-set", action="append", default=[], help="KEY=VALUE over those of pretraining")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    options.seeds = min(options.seeds, 2) if options.smoke else options.seeds
    head = introduction(options)
    if options.smoke:
        options.set += [*SMOKE, "batch=1", "validation.overlays=0"]
        options.pretrain_set += [*SMOKE, "batch=2", "held_out.volumes=2", "held_out.fraction=0.4"]
        options.pretrain_set += ["stop_on_collapse=false", "head={hidden: 8, bottleneck: 4, prototypes: 8}"]
    hearts = divided(options)
    every = (2, 5) if options.explore else (2, 5, 10, len(hearts.training))
    counts = options.labels or ([2] if options.smoke else every)
    if options.explore:
        explored(counts, hearts, options)
        return
    page = options.docs / "results" / "heart.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    parts = []
    for count in counts:
        parts.append(compared(count, hearts, options))
        # After each: a run of many hours has something to show before its end.
        with whole_file(page) as part:
            part.write_text(head + "".join(parts), encoding="utf-8")
    sys.stdout.write(f"{page}\n")


def divided(options: argparse.Namespace) -> Hearts:
    """The hearts in a fixed order: the last are tested; of the smoke's six, two."""
    names = [case.name for case in find_cases("nnunet", options.data, ["mri"])]
    order = [names[i] for i in np.random.default_rng(SPLIT_SEED).permutation(len(names))]
    test = TEST
    if options.smoke:
        order, test = order[:6], 2
    training, tested = order[:-test], order[-test:]
    if options.explore:
        cut = 2 if options.smoke else EXPLORE
        training, tested = training[:-cut], training[-cut:]
    return Hearts(tuple(training), tuple(tested))


def introduction(options: argparse.Namespace) -> str:
    """What was compared, on what, and with which budget."""
    tuning = load_settings(RunConfig, CONFIGS / "finetune-heart.yaml", options.set)
    pretraining = load_settings(PretrainConfig, CONFIGS / "pretrain-heart.yaml", options.pretrain_set)
    size = "×".join(str(side) for side in tuning.patch_zyx)
    return (
        "# Hearts: pretraining where labels are few\n\n"
        f"{written_by('heart', options)}, on ACDC (99 hearts at end-diastole, CC BY-NC-SA 4.0: figures alone, no "
        f"image). {TEST} hearts are tested, the same for all; the others pretrain without labels, and the first of "
        f"them in a fixed order have their labels used. Patches of {size} voxels, slices of "
        f"{tuning.spacing_zyx[0]:g} mm, in plane {tuning.spacing_zyx[1]:g} mm, halved as nnU-Net has it. Fine-tuning: "
        f"{tuning.steps} steps of "
        f"{tuning.batch}, last weights. Pretraining: {pretraining.steps} steps of {pretraining.batch}, the same for "
        f"all pretexts, lowest held-out loss. {seeds_of(options)} of 3D-SegSync, its Bottom and the xLSTM-UNet from "
        "scratch, of pretraining and of fine-tuning; one of the others. Intervals hold cases and, where there are "
        "several, seeds; which hearts are labelled does not change with the seed. SwinMM's other sides see a heart ten "
        "slices thick, most of them padding. What was tried before: heart-tried.csv, where `--explore` has been "
        "run.\n\n"
    )


# --- training ---------------------------------------------------------------------------------------------------------


def pretrained(one: System, seed: int, hearts: Hearts, options: argparse.Namespace) -> Path:
    """The encoder of a pretraining on every heart that is not tested; its checkpoint."""
    names = [case.name for case in find_cases("nnunet", options.data, ["mri"])]
    excluded = ", ".join(name for name in names if name not in hearts.training)
    recipe = "pretrain-heart.yaml" if one.pretext == "segsync" else "pretrain-heart-peers.yaml"
    changed = [] if one.pretext == "segsync" else [PRETEXTS[str(one.pretext)]]
    common = [value for value in options.pretrain_set if one.pretext == "segsync" or not value.startswith(OWN)]
    overrides = [
        f"data.folders=[{{folder: {options.data}, layout: nnunet}}]", f"data.exclude=[{excluded}]",
        f"data.cache={options.runs / 'cache'}", f"seed={seed}", *changed, *common,
    ]  # fmt: skip
    steps = load_settings(PretrainConfig, CONFIGS / recipe, overrides).steps
    chosen = [value.replace("TRIPLE", str(3 * steps)) for value in one.pretraining]
    settings = load_settings(PretrainConfig, CONFIGS / recipe, [*overrides, *chosen])
    # Two systems of one pretraining share it.
    key = one.key if one.pretraining else str(one.pretext)
    folder = RunFolder(options.runs / f"{part_of(options)}pretrain-{key}-{seed}")
    pretrain(settings, folder.folder, resume=folder.begun)
    return folder.best


#: Settings of 3D-SegSync alone, which its peers do not have.
OWN = ("head", "objective", "teacher", "centring", "views", "layers", "keep", "stop_on_collapse")


def trained(one: System, count: int, seed: int, hearts: Hearts, options: argparse.Namespace) -> RunFolder:
    """Fine-tune with the labels of so many hearts; the tested ones are scored once, after the last step."""
    labelled, tested = ", ".join(hearts.training[:count]), ", ".join(hearts.test)
    transfer = [f"transfer.checkpoint={pretrained(one, seed, hearts, options)}"] if one.pretext else []
    overrides = [
        f"data={{kind: folder, folder: {options.data}, layout: nnunet, cache: {options.runs / 'cache'}, "
        f"training_cases: [{labelled}], validation_cases: [{tested}]}}",
        f"seed={seed}", f"name={one.key}-{count}-{seed}", *options.set, *one.network, *transfer,
    ]  # fmt: skip
    steps = load_settings(RunConfig, CONFIGS / "finetune-heart.yaml", overrides).steps
    overrides += [f"validation.every={steps}"]
    overrides += [value.replace("QUARTER", str(max(1, steps // 4))) for value in one.transfer]
    folder = RunFolder(options.runs / f"{part_of(options)}{one.key}-{count}-{seed}")
    finetune(load_settings(RunConfig, CONFIGS / "finetune-heart.yaml", overrides), folder.folder, resume=folder.begun)
    return folder


def part_of(options: argparse.Namespace) -> str:
    """Runs that explore have hearts of their own, and so names of their own."""
    return "tried-" if options.explore else ""


def scored(one: System, count: int, seed: int, hearts: Hearts, options: argparse.Namespace) -> str:
    """Train one system and score it; returns `NAME=FOLDER` of its scores."""
    run = trained(one, count, seed, hearts, options)
    scores = options.runs / "scores" / run.folder.name
    if not (scores / SYSTEM_FILE).is_file():
        evaluate(run.folder, scores, checkpoint=run.last)
    return f"{one.name}={scores}"


# --- the page ---------------------------------------------------------------------------------------------------------


def compared(count: int, hearts: Hearts, options: argparse.Namespace) -> str:
    """Train, score and compare every system with so many labels; returns its part of the page."""
    runs = [
        scored(one, count, seed, hearts, options)
        for one in SYSTEMS
        for seed in range(options.seeds if one.claim else 1)
    ]
    folder = options.runs / f"comparison-{count}"
    # No montage: no image of ACDC leaves its folder.
    chapters = compare(runs, folder, paper=True)
    images = options.docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    (setting,) = group_runs([read_run(run) for run in runs], SYSTEMS[0].name)
    parts = [f"## {count} labelled hearts\n", *in_short(setting)]
    for table in sorted((folder / "tables").glob("*.md")):
        if table.stem != "overview":
            parts.append(table.read_text(encoding="utf-8"))
    for picture in (picture for chapter in chapters for picture in chapter.pictures):
        if not picture.name.startswith("cases-"):
            name = f"heart-{count}-{picture.name}.png"
            (images / name).write_bytes(picture.png)
            parts.append(f"![{picture.name.replace('-', ' ')}](../images/{name})\n\n*{picture.caption}*\n")
    return "\n".join(parts) + "\n"


def in_short(setting: Setting) -> Iterator[str]:
    """What pretraining brings over the same network from scratch, with its interval, in a line each."""
    scratch = setting.seeds_of(DICE, "xLSTM-UNet")
    for one in SYSTEMS:
        if one.pretext:
            gain = difference(setting.seeds_of(DICE, one.name), scratch)
            seeds = " and ".join(map(str, gain.seeds))
            yield (
                f"- {one.name} against xLSTM-UNet from scratch: {gain.mean:+.3f} of Dice, 95 % interval "
                f"{gain.low:+.3f} to {gain.high:+.3f} over {gain.n} hearts and {seeds} seeds."
            )
    yield ""


def explored(counts: Sequence[int], hearts: Hearts, options: argparse.Namespace) -> None:
    """Try every setting with few labels; each figure is in heart-tried.csv as soon as it is known."""
    path = options.docs / "results" / "heart-tried.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for count in counts:
        for one in TRIED:
            for seed in range(options.seeds):
                run = read_run(scored(one, count, seed, hearts, options))
                dice = [values[0] for values in run.values.values()]
                rows.append((one.name, count, seed, f"{float(np.nanmean(dice)):.4f}", len(run.cases)))
                table = io.StringIO()
                writer = csv.writer(table)
                writer.writerow(("tried", "labelled", "seed", "dice", "hearts"))
                writer.writerows(rows)
                with whole_file(path) as part:
                    part.write_text(table.getvalue(), encoding="utf-8")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
