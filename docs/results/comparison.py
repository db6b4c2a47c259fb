"""Writes comparison.md and its figures: `make comparison`. The paper's systems on the hippocampus set, by one loop.

Runs that are finished are not run again, those that were cut off go on; with `make hippocampus` it shares the runs that
both need.
"""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hippocampus import CONFIGS, ROOT, fine_tuned, pretrained_encoder, seeds_of, written_by

from segsync_train.comparison.compare import compare
from segsync_train.comparison.grouping import group_runs
from segsync_train.comparison.order import HOLDS, REVERSED, UNDECIDED, pairs
from segsync_train.comparison.published import published
from segsync_train.comparison.scores import DICE, Setting, read_run
from segsync_train.comparison.statistics import LEVEL, difference, holm
from segsync_train.config.run import RunConfig, TransferConfig
from segsync_train.config.settings import load_settings
from segsync_train.data.dataset import find_cases
from segsync_train.evaluation.evaluate import evaluate
from segsync_train.evaluation.system import SYSTEM_FILE
from segsync_train.runs.folder import RunFolder
from segsync_train.ssl.config import PretrainConfig

DOCS = Path(__file__).parents[1]
#: Sizes that train on two cores; a transformer's patch is a whole number of its deepest cells.
SWIN = (
    "network={preset: swinunetr, overrides: {feature_size: 12, window_size: 4}}",
    "patch_zyx=[32, 64, 32]",
)  # fmt: skip
VIT = (
    "network={preset: unetr, overrides: {feature_size: 8, hidden_size: 192, mlp_dim: 768, num_heads: 6}}",
    "patch_zyx=[32, 48, 32]",
)
PEERS = "pretrain-hippocampus-peers.yaml"
#: The pretexts with what fits them to crops of 35 × 50 × 35 voxels.
DECODER = "decoder: {width: 128, depth: 2, heads: 4}"
PRETEXTS = {
    "mae": f"pretext={{kind: mae, {DECODER}}}",
    "hiendmae": f"pretext={{kind: hiendmae, {DECODER}}}",
    "voco": "pretext={kind: voco, bases_zyx: [2, 2, 2], zoom: 2, width: 256}",
    "swinssl": "pretext={kind: swinssl, width: 128}",
    "swinmm": "pretext={kind: swinmm, width: 128}",
}


@dataclass(frozen=True)
class Contestant:
    """A system. network: settings over those of the xLSTM-UNet; pretext: a key of PRETEXTS, `segsync`, or none."""

    name: str
    key: str
    network: tuple[str, ...] = ()
    pretext: str | None = None
    start: Literal["full", "bottom", "none"] = "none"


CONTESTANTS = (
    Contestant("3D-SegSync", "full", pretext="segsync", start="full"),
    Contestant("3D-SegSync-Bottom", "bottom", pretext="segsync", start="bottom"),
    Contestant("xLSTM-UNet", "none"),
    Contestant("3D-nnUNet", "nnunet", ("network.preset=nnunet",)),
    Contestant("3D-ResUNet", "resunet", ("network.preset=resunet",)),
    Contestant("3D-UNet", "unet", ("network.preset=unet",)),
    Contestant("MAE, xLSTM-UNet", "mae-xlstm", (), "mae", "full"),
    Contestant("Hi-End-MAE, xLSTM-UNet", "hiendmae-xlstm", (), "hiendmae", "full"),
    Contestant("VoCo, xLSTM-UNet", "voco-xlstm", (), "voco", "full"),
    Contestant("SwinSSL, xLSTM-UNet", "swinssl-xlstm", (), "swinssl", "full"),
    Contestant("SwinMM, xLSTM-UNet", "swinmm-xlstm", (), "swinmm", "full"),
    Contestant("UNETR", "none-unetr", VIT),
    Contestant("MAE, UNETR", "mae-unetr", VIT, "mae", "full"),
    Contestant("Hi-End-MAE, UNETR", "hiendmae-unetr", VIT, "hiendmae", "full"),
    Contestant("SwinUNETR", "none-swinunetr", SWIN),
    Contestant("VoCo, SwinUNETR", "voco-swinunetr", SWIN, "voco", "full"),
    Contestant("SwinSSL, SwinUNETR", "swinssl-swinunetr", SWIN, "swinssl", "full"),
    Contestant("SwinMM, SwinUNETR", "swinmm-swinunetr", SWIN, "swinmm", "full"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "hippocampus")
    parser.add_argument("--runs", type=Path, default=ROOT / "test" / "output" / "hippocampus")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where results/ and images/ are written")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.1, 1.0], help="of the training labels")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cases", type=int, help="these first cases alone, a quarter of them to test")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE over the settings of fine-tuning")
    parser.add_argument("--pretrain-set", action="append", default=[], help="KEY=VALUE over those of pretraining")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    head = introduction(options)
    options.set += few_cases(options.data, options.cases) if options.cases else []
    pages = [compared(fraction, options) for fraction in options.fractions]
    text = options.docs / "results" / "comparison.md"
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text(head + "".join(pages), encoding="utf-8")
    sys.stdout.write(f"{text}\n")


def few_cases(data: Path, count: int) -> list[str]:
    """Settings that take a few cases in place of the seeded split."""
    names = [case.name for case in find_cases("nnunet", data, ["mri"])][:count]
    test = max(1, count // 4)
    training, held_back = ", ".join(names[test:]), ", ".join(names[:test])
    return [f"data.training_cases=[{training}]", f"data.validation_cases=[{held_back}]"]


def compared(fraction: float, options: argparse.Namespace) -> str:
    """Train, score and compare every system with one fraction of the labels; returns its part of the page."""
    runs = [scored(one, fraction, seed, options) for one in CONTESTANTS for seed in range(options.seeds)]
    folder = options.runs / f"comparison-{100 * fraction:g}"
    chapters = compare(runs, folder, paper=True)
    images = options.docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    (setting,) = group_runs([read_run(run) for run in runs], CONTESTANTS[0].name)
    parts = [f"## {100 * fraction:g} % of the labels\n", *in_short(setting)]
    for table in ("data-hippocampus", "budget"):
        found = folder / "tables" / f"{table}.md"
        if found.is_file():
            parts.append(found.read_text(encoding="utf-8"))
    for picture in (picture for chapter in chapters for picture in chapter.pictures):
        name = f"comparison-{100 * fraction:g}-{picture.name}.png"
        (images / name).write_bytes(picture.png)
        parts.append(f"![{picture.name.replace('-', ' ')}](../images/{name})\n\n*{picture.caption}*\n")
    return "\n".join(parts) + "\n"


def in_short(setting: Setting) -> Iterator[str]:
    """The best system, what pretraining changes, and the paper's order, each in a line."""
    dice = dict(zip(setting.systems, setting.of(DICE), strict=True))
    means = {name: float(values.mean()) for name, values in dice.items()}
    best, own = max(means, key=means.__getitem__), CONTESTANTS[0].name
    yield f"- Highest mean Dice: {best}, {means[best]:.3f}; {own}: {means[own]:.3f}."
    scratch = {one.network: one.name for one in CONTESTANTS if one.pretext is None}
    starts = {one.name: scratch[one.network] for one in CONTESTANTS if one.pretext}
    gains = {name: difference(dice[name], dice[base]) for name, base in starts.items()}
    told = dict(zip(gains, (p < LEVEL for p in holm([gain.p for gain in gains.values()])), strict=True))
    better, worse = (
        [f"`{name}` ({gain.mean:+.3f})" for name, gain in gains.items() if told[name] and (gain.effect > 0) == ahead]
        for ahead in (True, False)
    )
    yield (
        f"- Pretrained against the same network from scratch (p < {LEVEL:g}, Holm over {len(gains)}): better "
        f"{', '.join(better) or 'none'}; worse {', '.join(worse) or 'none'}; the others are not told apart."
    )
    verdicts = Counter(pair.verdict for pair in pairs(setting, published()))
    yield (
        f"- Of {verdicts.total()} pairs of systems that the paper orders, {verdicts[HOLDS]} stand in the same order "
        f"here, {verdicts[REVERSED]} in the opposite one, {verdicts[UNDECIDED]} are not told apart: the table of the "
        "paper's order below has them all.\n"
    )


def scored(one: Contestant, fraction: float, seed: int, options: argparse.Namespace) -> str:
    """Train one system and score it on the test cases; returns `NAME=FOLDER` of its scores."""
    data = [f"data.folder={options.data}", f"data.cache={options.runs / 'cache'}"]
    settings = load_settings(RunConfig, CONFIGS / "finetune-fast.yaml", [*data, *one.network, *options.set])
    checkpoint = pretrained(one, settings, options).best if one.pretext else None
    transfer = TransferConfig(mode=one.start, checkpoint=checkpoint)
    run = fine_tuned(settings, one.key, fraction, seed, transfer, options.runs)
    scores = options.runs / "scores" / run.folder.name
    if not (scores / SYSTEM_FILE).is_file():
        evaluate(run.folder, scores, checkpoint=run.last, masks=seed == 0)
    return f"{one.name}={scores}"


def pretrained(one: Contestant, settings: RunConfig, options: argparse.Namespace) -> RunFolder:
    """The encoder's run of pretraining, without labels: once for each pretext and network."""
    if one.pretext == "segsync":
        return pretrained_encoder(options.data, options.runs / "pretrain", settings, options.pretrain_set)
    overrides = [PRETEXTS[str(one.pretext)], *one.network, *options.pretrain_set]
    run = options.runs / f"pretrain-{one.key}"
    return pretrained_encoder(options.data, run, settings, overrides, PEERS)


def introduction(options: argparse.Namespace) -> str:
    """What was compared, on what, and with which budget."""
    settings = load_settings(RunConfig, CONFIGS / "finetune-fast.yaml", options.set)
    pretraining = load_settings(PretrainConfig, CONFIGS / PEERS, options.pretrain_set)
    return (
        "# Comparison: the paper's systems in one training loop\n\n"
        f"{written_by('comparison', options)}: the hippocampus set of the Medical "
        "Segmentation Decathlon, 208 cases to train on and 52 to test, the same for all. Fine-tuning: "
        f"{settings.steps} steps of {settings.batch} patches, {seeds_of(options)}, last weights; pretraining: "
        f"{pretraining.steps} steps of {pretraining.batch} on the training images without labels, the same for all "
        "pretexts, and of them the weights whose held-out loss is lowest. Networks are of sizes that train on two "
        "cores (the budget table has them); the paper's, whose order is held against ours below, are larger ones on "
        "other data.\n\nSystems that share a backbone (`3D-SegSync`, `xLSTM-UNet` and those named `…, xLSTM-UNet`; "
        "`UNETR` and `SwinUNETR` with those named after them) differ in the pretext alone; without one they start "
        "from scratch.\n\nAll tests are over the test cases: how much a system's score changes with the seed is not in "
        "them. Each family of tests is corrected by Holm for itself, so that one pair's p differs between them: "
        "3D-SegSync against every other system (the first tables), each pretext against its own network from scratch, "
        "the paper's pairs, and every system against every other (the map of significance).\n\n"
    )


if __name__ == "__main__":
    main()
