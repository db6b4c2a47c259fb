"""The study of hearts: its systems, the order of their runs, their settings, and a run's training and scoring."""

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hippocampus import CONFIGS
from ledger import Key, Made, fingerprint

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
