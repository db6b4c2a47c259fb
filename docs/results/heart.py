"""Writes heart.md and its figures: `make heart`. The paper's systems on real hearts (ACDC), with few labels and many.

What is finished is kept as figures in docs/results/heart and not run again, on this machine or another; a run that was
cut off goes on where its folder is still there. The pairs that carry the claim come first. `--explore` tries settings
on hearts cut out of those that train, never on the test hearts; `--page` writes the page of what is there; `--smoke`
is the whole in a minute, one step of tiny networks on six hearts.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from heart_page import write_page
from heart_study import SMALL_PRETRAINING, SMALL_TUNING, SMOKE, cells, divided, key_of, made
from hippocampus import ROOT, written_by
from ledger import Ledger

DOCS = Path(__file__).parents[1]


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
        write_page(ledger, wanted, options)


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
        options.set += [*SMOKE, "batch=1", "ema=null"]
        options.pretrain_set += [*SMOKE, "batch=2", "held_out.volumes=2", "held_out.fraction=0.4"]
        options.pretrain_set += ["stop_on_collapse=false", "head={hidden: 8, bottleneck: 4, prototypes: 8}"]
    return options


if __name__ == "__main__":
    main()
