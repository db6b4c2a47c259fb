"""Writes heart.md and its figures: `make heart`. The paper's systems on real hearts (ACDC), with few labels and many.

What is finished is kept as figures in docs/results/heart and not run again, on this machine or another; a run that was
cut off goes on where its folder is still there. The pairs that carry the claim come first. `--explore` tries settings
on hearts cut out of those that train, never on the test hearts; `--page` writes the page of what is there; `--smoke`
is the whole in a minute, one step of tiny networks on six hearts.
"""

import argparse
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hippocampus import CONFIGS, ROOT, written_by
from ledger import Key, Ledger, Made, fingerprint
from matplotlib.figure import Figure

from segsync.atomic import whole_file
from segsync_train.comparison.compare import compare
from segsync_train.comparison.grouping import group_runs
from segsync_train.comparison.scores import DICE, Setting, read_run
from segsync_train.comparison.statistics import Difference, Values, difference
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import load_settings
from segsync_train.data.dataset import find_cases
from segsync_train.evaluation.evaluate import evaluate_model, load_model
from segsync_train.evaluation.metrics import RULES
from segsync_train.evaluation.summary import Row
from segsync_train.runs.folder import RunFolder, commit
from segsync_train.ssl.config import PretrainConfig
from segsync_train.trainer.finetune import finetune
from segsync_train.trainer.pretrain import pretrain

log = logging.getLogger(__name__)

DOCS = Path(__file__).parents[1]
DATA = "acdc"
TUNING, PRETRAINING = CONFIGS / "finetune-heart.yaml", CONFIGS / "pretrain-heart.yaml"
PEERS = CONFIGS / "pretrain-heart-peers.yaml"
#: Hearts that are tested, and those of the others that `--explore` tests instead.
TEST, EXPLORE = 20, 15
SPLIT_SEED = 0
#: Labelled hearts; None: all that train. With few of them pretraining can matter most.
COUNTS, FEW = (2, 5, 10, None), 5
DECODER = "decoder: {width: 128, depth: 2, heads: 4}"
#: The peers' pretexts with what fits them to patches of 10 slices.
PRETEXTS = {
    "mae": f"pretext={{kind: mae, {DECODER}}}",
    "hiendmae": f"pretext={{kind: hiendmae, {DECODER}}}",
    "voco": "pretext={kind: voco, bases_zyx: [1, 2, 2], zoom: 2, width: 256}",
    "swinssl": "pretext={kind: swinssl, width: 128}",
    "swinmm": "pretext={kind: swinmm, width: 128}",
}
#: Settings of 3D-SegSync alone, which its peers do not have.
OWN = ("head", "objective", "teacher", "centring", "views", "layers", "keep", "stop_on_collapse")
#: What one core trains in minutes, over the recipes: coarser voxels, a narrower network, fewer steps. With 300 steps no
#: network had fitted even two hearts, and seeds differed by more than systems did.
SMALL = ("spacing_zyx=[10, 4, 4]", "patch_zyx=[10, 48, 48]", "network.overrides.widths=[8, 16, 32, 64, 96]")
SMALL_TUNING = (*SMALL, "steps=900", "optimiser.warmup_steps=30", "ema=0.98")
SMALL_PRETRAINING = (*SMALL, "steps=600", "optimiser.warmup_steps=30", "held_out.every=100")
SMOKE = (
    "patch_zyx=[4, 32, 32]", "spacing_zyx=[10, 8, 8]", "steps=1", "device=cpu",
    "network={preset: tiny, overrides: {widths: [4, 4, 8], vil_stages: [2], "
    "strides_zyx: [[1, 1, 1], [1, 2, 2], [1, 2, 2]]}}",
)  # fmt: skip


@dataclass(frozen=True)
class System:
    """What is trained. network: settings over the xLSTM-UNet's; pretext: `segsync`, a key of PRETEXTS, or none.

    pretraining, transfer: settings over those of the recipes. turn: when its runs come; every seed of the first three
    turns is run, of the last the first alone. counts: of labelled hearts, where not all.
    """

    name: str
    key: str
    network: tuple[str, ...] = ()
    pretext: str | None = None
    pretraining: tuple[str, ...] = ()
    transfer: tuple[str, ...] = ()
    turn: int = 3
    counts: tuple[int | None, ...] = COUNTS


FULL = ("transfer.mode=full",)
WIDE = ("patch_zyx=[10, 96, 96]", "batch=1")
NO_VIL = "network.overrides.vil_stages=[]"
SCRATCH = "xLSTM-UNet"
WHOLE, BARE = "xLSTM-UNet, whole slices", "xLSTM-UNet, whole slices, no ViL blocks"
SYSTEMS = (
    System("3D-SegSync", "segsync", pretext="segsync", transfer=FULL, turn=0),
    System("3D-SegSync-Bottom", "bottom", pretext="segsync", transfer=("transfer.mode=bottom",), turn=1),
    System(SCRATCH, "scratch", turn=0),
    System(WHOLE, "whole", WIDE, turn=2, counts=(10,)),
    System(BARE, "whole-bare", (*WIDE, NO_VIL), turn=2, counts=(10,)),
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
    System("from scratch", "scratch"),
    System("recipe", "recipe", pretext="segsync", transfer=FULL),
    System("encoder at a tenth of the rate", "tenth", pretext="segsync", transfer=(*FULL, "transfer.lr_factor=0.1")),
    System("MAE", "mae", pretext="mae", transfer=FULL),
    System(
        "encoder frozen for a quarter, then warmed up", "warmup", pretext="segsync",
        transfer=(*FULL, "transfer.freeze=[encoder]", "transfer.freeze_steps=QUARTER", "transfer.warmup_steps=QUARTER"),
    ),
    System("encoder frozen", "frozen", pretext="segsync", transfer=(*FULL, "transfer.freeze=[encoder]")),
    System("stronger views", "views", pretext="segsync", transfer=FULL,
           pretraining=("views.zoom=[0.7, 1.6]", "views.strength=[-0.4, 0.4]", "views.jitter_gamma=[0.6, 1.6]")),
    System("pretrained three times as long", "longer", pretext="segsync", pretraining=("steps=TRIPLE",), transfer=FULL),
    System("no masked term", "unmasked", pretext="segsync", pretraining=("objective.masked=0",), transfer=FULL),
    System("student kept", "student", pretext="segsync", pretraining=("keep=student",), transfer=FULL),
    System("sparse MAE", "sparse", pretext="mae", transfer=FULL,
           pretraining=(f"pretext={{kind: mae, sparse: true, mask_stage: -1, {DECODER}}}",)),
)  # fmt: skip


@dataclass(frozen=True)
class Hearts:
    """Names of the hearts that train, in the order in which their labels are taken, and of those that test."""

    training: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One run to be made: a system with so many labelled hearts, from one seed."""

    system: System
    labelled: int
    seed: int


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    hearts = divided(options)
    ledger = Ledger(options.docs / "results" / "heart" / ("tried" if options.explore else "."))
    wanted = {cell: key_of(cell, hearts, options) for cell in cells(hearts, options)}
    if not options.page:
        for cell, key in wanted.items():
            if key not in ledger.runs and (not options.only or cell.system.key in options.only):
                ledger.add(*made(cell, key, hearts, options))
    if not options.explore:
        write_page(ledger, wanted, hearts, options)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "acdc")
    parser.add_argument("--runs", type=Path, default=ROOT / "test" / "output" / "heart")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where results/ and images/ are written")
    parser.add_argument("--labels", type=int, nargs="+", help="labelled hearts; else 2, 5, 10 and all")
    parser.add_argument("--seeds", type=int, default=3, help="of the pairs that carry the claim; of the others one")
    parser.add_argument("--explore", action="store_true", help="try settings, on no test heart")
    parser.add_argument("--only", nargs="+", help="train these systems alone, by their keys (segsync, scratch, …)")
    parser.add_argument("--page", action="store_true", help="train nothing: write the page of what is there")
    parser.add_argument("--smoke", action="store_true", help="everything, in seconds")
    parser.add_argument("--full", action="store_true", help="the recipes as they are: days on two cores")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE over the settings of fine-tuning")
    parser.add_argument("--pretrain-set", action="append", default=[], help="KEY=VALUE over those of pretraining")
    options = parser.parse_args(arguments)
    options.seeds = min(options.seeds, 2) if options.smoke else options.seeds
    options.command, options.given = written_by("heart", options), (tuple(options.set), tuple(options.pretrain_set))
    if not options.full:
        options.set = [*SMALL_TUNING, *options.set]
        options.pretrain_set = [*SMALL_PRETRAINING, *options.pretrain_set]
    if options.smoke:
        options.set += [*SMOKE, "batch=1"]
        options.pretrain_set += [*SMOKE, "batch=2", "held_out.volumes=2", "held_out.fraction=0.4"]
        options.pretrain_set += ["stop_on_collapse=false", "head={hidden: 8, bottleneck: 4, prototypes: 8}"]
    return options


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


def cells(hearts: Hearts, options: argparse.Namespace) -> list[Cell]:
    """All that is to be trained, in the order in which it is worth most."""
    every = len(hearts.training)
    wanted = options.labels or ([2] if options.smoke else [2, 5] if options.explore else [2, 5, 10, every])
    if options.explore:
        return [Cell(one, count, seed) for seed in range(options.seeds) for one in TRIED for count in wanted]
    repeated = 0 if options.smoke else 2
    found = [
        Cell(one, count, seed)
        for one in SYSTEMS
        for count in wanted
        if options.smoke or count in [every if some is None else some for some in one.counts]
        for seed in range(options.seeds if one.turn <= repeated else 1)
    ]
    # First the claim where labels are few, then what it rests on, then the others.
    return sorted(found, key=lambda cell: (cell.system.turn + 2 * (cell.labelled > FEW), cell.seed, cell.labelled))


# --- settings ---------------------------------------------------------------------------------------------------------


def tuning_of(cell: Cell, options: argparse.Namespace) -> list[str]:
    """What is laid over the recipe of fine-tuning, without paths, names and seed."""
    words = {"QUARTER": max(1, load_settings(RunConfig, TUNING, options.set).steps // 4)}
    return [*options.set, *(worded(value, words) for value in (*cell.system.network, *cell.system.transfer))]


def pretraining_of(cell: Cell, options: argparse.Namespace) -> tuple[Path, list[str]]:
    """The recipe of pretraining, and what is laid over it, without paths, names and seed."""
    one = cell.system
    if one.pretext == "segsync":
        recipe, changed = PRETRAINING, list(options.pretrain_set)
    else:
        recipe, changed = PEERS, [PRETEXTS[str(one.pretext)]]
        changed += [value for value in options.pretrain_set if not value.startswith(OWN)]
    words = {"TRIPLE": 3 * load_settings(PretrainConfig, recipe, changed).steps}
    return recipe, [*changed, *(worded(value, words) for value in one.pretraining)]


def worded(value: str, words: dict[str, int]) -> str:
    """A setting whose number is a multiple of the recipe's own."""
    for word, number in words.items():
        value = value.replace(word, str(number))
    return value


def key_of(cell: Cell, hearts: Hearts, options: argparse.Namespace) -> Key:
    """What the ledger knows the run by."""
    recipes: dict[Path, Sequence[str]] = {TUNING: tuning_of(cell, options)}
    names = [hearts.test, hearts.training[: cell.labelled]]
    if cell.system.pretext:
        recipes |= [pretraining_of(cell, options)]
        names.append(hearts.training)
    name = cell.system.name
    if options.explore:
        tuning, pretraining = options.given
        name += "".join(f"; {value}" for value in tuning)
        name += "".join(f"; pretraining {value}" for value in pretraining if cell.system.pretext)
    return Key(name, cell.labelled, cell.seed, fingerprint(recipes, *names))


# --- training ---------------------------------------------------------------------------------------------------------


def made(cell: Cell, key: Key, hearts: Hearts, options: argparse.Namespace) -> tuple[Made, list[Row]]:
    """Train a cell and score it on the hearts that test."""
    encoder = pretrained(cell, hearts, options) if cell.system.pretext else None
    began = time.process_time()
    run = trained(cell, key, encoder, hearts, options)
    model = load_model(run.folder, checkpoint=run.last)
    cases = [case for case in find_cases("nnunet", options.data, ["mri"]) if case.name in hearts.test]
    rows = evaluate_model(model, cases, RULES["isles22"])
    seconds = round(time.process_time() - began, 1)
    assert model.budget is not None
    dice = float(np.mean([row.scores.dice for row in rows]))
    log.info("%s: Dice %.4f over %d hearts, %.0f s", run.folder.name, dice, len(cases), seconds)
    cost = (model.budget.hardware, model.budget.parameters, model.budget.steps, model.budget.inherited_steps)
    return Made(key, commit() or "", *cost, seconds), rows


def pretrained(cell: Cell, hearts: Hearts, options: argparse.Namespace) -> Path:
    """The encoder of a pretraining on every heart that is not tested; its checkpoint."""
    names = [case.name for case in find_cases("nnunet", options.data, ["mri"])]
    excluded = ", ".join(name for name in names if name not in hearts.training)
    recipe, what = pretraining_of(cell, options)
    where = [
        f"data.folders=[{{folder: {options.data}, layout: nnunet}}]", f"data.exclude=[{excluded}]",
        f"data.cache={options.runs / 'cache'}", f"seed={cell.seed}", "workers=0",
    ]  # fmt: skip
    # Systems of one pretraining share it, whatever they make of it.
    name = fingerprint({recipe: what}, hearts.training)
    folder = RunFolder(options.runs / f"pretrain-{cell.system.pretext}-{cell.seed}-{name}")
    pretrain(load_settings(PretrainConfig, recipe, [*what, *where]), folder.folder, resume=folder.begun)
    return folder.best


def trained(cell: Cell, key: Key, encoder: Path | None, hearts: Hearts, options: argparse.Namespace) -> RunFolder:
    """Fine-tune with the labels of so many hearts."""
    name = f"{cell.system.key}-{cell.labelled}-{cell.seed}-{key.settings}"
    # The last weights are scored, so that nothing is chosen on what validates: one heart, since one there must be.
    labelled, tested = ", ".join(hearts.training[: cell.labelled]), hearts.test[0]
    where = [
        f"data={{kind: folder, folder: {options.data}, layout: nnunet, cache: {options.runs / 'cache'}, "
        f"training_cases: [{labelled}], validation_cases: [{tested}]}}",
        f"seed={cell.seed}", f"name={name}", "workers=0", "validation.overlays=0",
    ]  # fmt: skip
    where += [f"transfer.checkpoint={encoder}"] if encoder else []
    folder = RunFolder(options.runs / name)
    settings = load_settings(RunConfig, TUNING, [*where, *tuning_of(cell, options)])
    finetune(settings, folder.folder, resume=folder.begun)
    return folder


# --- the page ---------------------------------------------------------------------------------------------------------


def write_page(ledger: Ledger, wanted: dict[Cell, Key], hearts: Hearts, options: argparse.Namespace) -> None:
    """The page of what is there: what is missing is said, and what was made with other settings is left out."""
    there = {cell: key for cell, key in wanted.items() if key in ledger.runs}
    counts = list(dict.fromkeys(sorted(cell.labelled for cell in there)))
    images = options.docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    parts, found = [introduction(options)], {}
    with TemporaryDirectory() as folder:
        chapters = []
        for count in counts:
            runs = [
                ledger.restore(key, DATA, Path(folder) / f"{cell.system.key}-{count}-{cell.seed}")
                for cell, key in there.items()
                if cell.labelled == count
            ]
            if len({cell.system for cell in there if cell.labelled == count}) > 1:
                chapters.append(compared(count, runs, Path(folder) / f"comparison-{count}", images))
                (found[count],) = group_runs([read_run(run) for run in runs], SYSTEMS[0].name)
    parts += [*in_short(found), *seeds_table(ledger, wanted, there)]
    if found:
        labels_figure(found).savefig(images / "heart.png", dpi=150)
        parts.append("![Dice by labelled hearts](../images/heart.png)\n")
    parts += [*tried_table(options), *chapters]
    page = options.docs / "results" / "heart.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(page) as part:
        part.write_text("\n".join(parts) + "\n", encoding="utf-8")
    sys.stdout.write(f"{page}\n")


def introduction(options: argparse.Namespace) -> str:
    """What was compared, on what, and with which budget."""
    tuning = load_settings(RunConfig, TUNING, options.set)
    pretraining = load_settings(PretrainConfig, PRETRAINING, options.pretrain_set)
    size = "×".join(str(side) for side in tuning.patch_zyx)
    z, y, _ = tuning.spacing_zyx
    return (
        "# Hearts: pretraining where labels are few\n\n"
        f"{options.command}, on ACDC (99 hearts at end-diastole, CC BY-NC-SA 4.0: figures alone, no image). The scores "
        "of every finished run are kept in [heart/](heart), with the commit that made them; the command goes on where "
        f"they end. {TEST} hearts are tested, the same for all; the others pretrain without labels, and the first of "
        "them in a fixed order have their labels used: which hearts are labelled does not change with the seed.\n\n"
        f"The budget is small: patches of {size} voxels of {z:g} × {y:g} × {y:g} mm, fine-tuning of {tuning.steps} "
        f"steps of {tuning.batch}, last weights; pretraining of {pretraining.steps} steps of {pretraining.batch}, the "
        "same for all pretexts, lowest held-out loss. Whatever the table says, it says of this budget. Strides halve "
        "in plane alone until a voxel is as wide as a slice is thick. Each seed is one of pretraining and of "
        "fine-tuning. Intervals hold cases and, where there are several, seeds. `3D-nnUNet` is MONAI's network in this "
        "loop, not nnU-Net's package. SwinMM's other sides see a heart ten slices thick, most of them padding.\n"
    )


def compared(count: int, runs: Sequence[str], folder: Path, images: Path) -> str:
    """Tables and pictures of all systems with so many labels."""
    # No montage: no image of ACDC leaves its folder.
    chapters = compare(runs, folder, paper=True)
    parts = [f"## {count} labelled hearts\n"]
    for table in sorted((folder / "tables").glob("data-*.md")):
        parts.append(table.read_text(encoding="utf-8"))
    for picture in (picture for chapter in chapters for picture in chapter.pictures):
        name = f"heart-{count}-{picture.name}.png"
        (images / name).write_bytes(picture.png)
        parts.append(f"![{picture.name.replace('-', ' ')}](../images/{name})\n\n*{picture.caption}*\n")
    return "\n".join(parts)


def in_short(found: dict[int, Setting]) -> Iterator[str]:
    """What pretraining brings over the same network from scratch, and what the ViL blocks bring, with intervals."""
    yield "## In short\n"
    yield "| labelled hearts | system | against | mean Dice | difference | 95 % interval | seeds |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    pairs = [(one.name, SCRATCH) for one in SYSTEMS if one.pretext] + [(WHOLE, BARE)]
    better = []
    for count, setting in found.items():
        for name, base in pairs:
            if name in setting.systems and base in setting.systems:
                values = setting.seeds_of(DICE, name)
                gain = difference(values, setting.seeds_of(DICE, base))
                yield f"| {count} | {name} | {base} | {values.mean():.3f} | {gain_text(gain)} |"
                better += [f"{name} with {count}"] if gain.low > 0 and min(gain.seeds) > 1 else []
    yield (
        "\nBetter by an interval over seeds and hearts that excludes zero: "
        f"{', '.join(better) or 'none of those with several seeds'}.\n"
    )


def gain_text(gain: Difference) -> str:
    """A difference as cells of a row."""
    return f"{gain.mean:+.3f} | {gain.low:+.3f} to {gain.high:+.3f} | {' and '.join(map(str, gain.seeds))}"


def seeds_table(ledger: Ledger, wanted: dict[Cell, Key], there: dict[Cell, Key]) -> Iterator[str]:
    """How many seeds each system has by labels, of those that are wanted."""
    counts = list(dict.fromkeys(sorted(cell.labelled for cell in wanted)))
    yield "## What has been run\n"
    yield f"| system | {' | '.join(f'{count} labelled' for count in counts)} | parameters 10⁶ | seconds a run |"
    yield "| --- " * (len(counts) + 3) + "|"
    for one in dict.fromkeys(cell.system for cell in wanted):
        row = [f"{seeds(there, one, count)} of {seeds(wanted, one, count)}" for count in counts]
        runs = [ledger.runs[key] for cell, key in there.items() if cell.system == one]
        cost = (
            (f"{runs[0].parameters / 1e6:.2f}", f"{np.mean([run.seconds for run in runs]):.0f}") if runs else ("", "")
        )
        yield f"| {one.name} | {' | '.join(cell if cell != '0 of 0' else '' for cell in (*row, *cost))} |"
    hardware = " and ".join(sorted({ledger.runs[key].hardware for key in there.values()}))
    yield f"\nRuns finished, of those wanted. Seconds of one processor, training and scoring ({hardware}).\n"


def seeds(of: Iterable[Cell], one: System, count: int) -> int:
    """How many runs a system has with so many labels."""
    return sum(cell.system == one and cell.labelled == count for cell in of)


def labels_figure(found: dict[int, Setting]) -> Figure:
    """Mean Dice by labelled hearts; each seed is a dot."""
    drawn = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = drawn.add_subplot()
    colours = {"3D-SegSync": "#0072B2", "3D-SegSync-Bottom": "#E69F00", SCRATCH: "#555555"}
    for name, colour in colours.items():
        means = {count: one.seeds_of(DICE, name).mean(1) for count, one in found.items() if name in one.systems}
        axes.plot(list(means), [values.mean() for values in means.values()], color=colour, label=name)
        for count, values in means.items():
            axes.plot([count] * len(values), values, "o", color=colour, markersize=4)
    axes.set_xscale("log")
    axes.set_xticks(list(found), [str(count) for count in found])
    axes.minorticks_off()
    axes.set_xlabel("labelled hearts")
    axes.set_ylabel("mean Dice of the test hearts, a dot a seed")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return drawn


def tried_table(options: argparse.Namespace) -> Iterator[str]:
    """Every setting that was tried, with its figure."""
    ledger = Ledger(options.docs / "results" / "heart" / "tried")
    if not ledger.runs:
        return
    yield "## What was tried\n"
    yield (
        f"On {EXPLORE} hearts cut out of those that train, never on a test heart; after a semicolon what was laid over "
        "the settings above. The difference is to training from scratch with as many labels, the same seed and the "
        "same settings of fine-tuning, with its interval over hearts.\n"
    )
    yield "| tried | labelled | seed | pretraining steps | steps | mean Dice | difference |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for run in sorted(ledger.runs.values(), key=lambda run: (run.key.labelled, run.key.seed, run.steps)):
        dice, shown = ledger.dice(run.key), ""
        if (base := base_of(run, ledger)) is not None:
            gain = difference(by_heart(dice), by_heart(ledger.dice(base)))
            shown = f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
        cells = (run.key.system, run.key.labelled, run.key.seed, run.pretraining_steps or "", run.steps)
        yield f"| {' | '.join(map(str, cells))} | {np.mean(list(dice.values())):.3f} | {shown} |"
    yield ""


def base_of(run: Made, ledger: Ledger) -> Key | None:
    """The training from scratch that a run with pretraining is held against, where it has been made."""
    _, *given = run.key.system.split("; ")
    name = "; ".join([TRIED[0].name, *(value for value in given if not value.startswith("pretraining "))])
    alike = (key for key in ledger.runs if key.system == name and key != run.key)
    return next((key for key in alike if (key.labelled, key.seed) == (run.key.labelled, run.key.seed)), None)


def by_heart(dice: dict[tuple[str, str], float]) -> Values:
    """Mean Dice over the structures of each heart."""
    names = sorted({case for case, _ in dice})
    return np.array([np.mean([value for (case, _), value in dice.items() if case == name]) for name in names])


if __name__ == "__main__":
    main()
