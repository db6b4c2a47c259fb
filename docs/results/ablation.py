"""Writes ablation.md: `make ablation`. What the ViL blocks bring, by stage and direction, against none at all.

It shares the run of the preset as it is with `make hippocampus`. Runs that are finished are not run again.
"""

import argparse
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hippocampus import CONFIGS, HERE, ROOT, Measured, gain, measure, seeds_of, trained_on, written_by

from segsync_train.config.run import RunConfig, TransferConfig
from segsync_train.config.settings import load_settings
from segsync_train.config.training import NetworkConfig
from segsync_train.networks.build import build_network


@dataclass(frozen=True)
class Variant:
    """A network: what of the preset is changed, and the name of its runs."""

    title: str
    key: str
    overrides: dict[str, Any] = field(default_factory=dict)


CONTROL = Variant("no ViL block", "no-vil", {"vil_stages": []})
#: The preset has blocks in the two deepest of five stages, in both directions.
VARIANTS = (
    CONTROL,
    Variant("deepest stage, both directions", "vil-4", {"vil_stages": [4]}),
    Variant("two deepest, one direction", "vil-34-one-way", {"directions": 1}),
    Variant("two deepest, both directions (preset)", "none"),
    Variant("three deepest, both directions", "vil-234", {"vil_stages": [2, 3, 4]}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "hippocampus")
    parser.add_argument("--runs", type=Path, default=ROOT / "test" / "output" / "hippocampus")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the training labels")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE over the settings of fine-tuning")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    data = [f"data.folder={options.data}", f"data.cache={options.runs / 'cache'}"]
    settings = load_settings(RunConfig, CONFIGS / "finetune-fast.yaml", [*data, *options.set])
    measured: dict[str, tuple[Measured, int]] = {}
    for variant in VARIANTS:
        network = NetworkConfig(preset="tiny", overrides=variant.overrides)
        changed = settings.model_copy(update={"network": network})
        parameters = sum(parameter.numel() for parameter in build_network(changed).parameters())
        found = measure(changed, variant.key, options.fraction, TransferConfig(), options.runs, options.seeds)
        measured[variant.key] = found, parameters
    (HERE / "ablation.md").write_text(page(measured, settings, options), encoding="utf-8")
    sys.stdout.write(f"{HERE / 'ablation.md'}\n")


def page(measured: dict[str, tuple[Measured, int]], settings: RunConfig, options: argparse.Namespace) -> str:
    """The page, in Markdown."""
    device = trained_on(run for found, _ in measured.values() for run in found.runs)
    lines = [
        "# Ablation: what the ViL blocks bring",
        "",
        f"{written_by('ablation', options)}, trained on {device}. The `tiny` preset of five stages on the "
        f"hippocampus set, {100 * options.fraction:g} % of the labels, from scratch, {settings.steps} steps of "
        f"{settings.batch} patches, {seeds_of(options)}, 52 test cases, last weights. Mean Dice of both labels ± "
        "standard deviation over cases; in brackets the difference from the network without any block and its 95 % "
        "confidence interval (bootstrap over cases). Training time is that of this run on a shared machine.",
        "",
        "| ViL blocks | parameters | Dice | minutes |",
        "| --- | --- | --- | --- |",
    ]
    control = measured[CONTROL.key][0]
    for variant in VARIANTS:
        found, parameters = measured[variant.key]
        dice = found.dice.mean(0)
        cell = f"{dice.mean():.3f} ± {dice.std(ddof=1):.3f}"
        if variant is not CONTROL:
            cell += " ({:+.3f}, {:+.3f} to {:+.3f})".format(*gain(found, control))
        lines.append(f"| {variant.title} | {parameters / 1e6:.2f} M | {cell} | {60 * found.hours:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
