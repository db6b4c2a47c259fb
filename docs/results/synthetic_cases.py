"""Shipped weights on synthetic cases that nothing was trained or chosen on, next to thresholds of hindsight."""

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from thresholds import CONTRASTS, Values, best_mask, dice_of_all

from segsync.arrays import Mask
from segsync.bundle import Bundle, ModelSpec
from segsync.engine import open_engines
from segsync.pipeline import Pipeline
from segsync_train.config.data import SyntheticData
from segsync_train.config.run import RunConfig
from segsync_train.data.cases import LabelledCase
from segsync_train.data.sources import SyntheticSource
from segsync_train.evaluation.metrics import RULES, Scores, score

ROOT = Path(__file__).parents[2]
#: First word of the seeds of the test cases; those of training and of validation are others.
TEST = 22
SIZES_ML = ((0.0, 1.0), (1.0, 10.0), (10.0, 50.0), (50.0, np.inf))
Row = tuple[str, ...]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """One synthetic case: its mask, the network's scores, and those of the best threshold, chosen with the truth at
    hand; Dice at every threshold (`thresholds.dice_of_all`).
    """

    case: LabelledCase
    mask: Mask
    network: Scores
    oracle: Scores
    dice_at: Values


def arguments_of(description: str | None) -> argparse.ArgumentParser:
    """What every script that scores shipped weights takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    parser.add_argument("--sources", type=Path, default=ROOT / "data")
    parser.add_argument("--cases", type=int, default=72)
    parser.add_argument("--cache", type=Path, default=ROOT / "test" / "output" / "synthesis-cache")
    return parser


def scored_cases(bundle: Bundle, sources: Path, cache: Path, count: int) -> Iterator[Scored]:
    """Draw and score so many cases; raises ValueError where the weights were not trained on synthetic ones."""
    config = RunConfig.model_validate(bundle.spec.provenance["config"])
    data = config.data.model_copy(update={"sources": sources})
    if not isinstance(data, SyntheticData):
        raise ValueError(f"{bundle.folder}: expected weights trained on synthetic images, found {data.kind}")
    source = SyntheticSource(config.task, config.case_spec, data, config.seed, cache)
    pipeline = Pipeline(bundle.spec, open_engines(bundle, "cpu"))
    for number in range(count):
        log.info("%s: synthetic case %d of %d", bundle.spec.task, number + 1, count)
        yield scored_case(source.draw(TEST, number), bundle.spec.task, pipeline)


def scored_case(case: LabelledCase, task: str, pipeline: Pipeline) -> Scored:
    """The network with its operating point, as in the container, on the model's grid."""
    probabilities, _ = pipeline.predict(case.image, case.tissue)
    found, _ = pipeline.labels(probabilities, case.grid, case.grid)
    truth, rules = case.label > 0, RULES["isles22"]
    high, low = CONTRASTS[task][1](case.image)
    oracle = best_mask(high, low, case.tissue, truth)
    network, yardstick = (score(truth, mask, case.spacing_zyx, rules) for mask in (found > 0, oracle))
    return Scored(case, found > 0, network, yardstick, dice_of_all(high, low, case.tissue, truth))


def training(spec: ModelSpec) -> str:
    """How the weights were made, as a sentence of a page."""
    made = spec.provenance
    networks = made.get("networks", [made])
    several = f"the mean of {len(networks)} networks, each of " if len(networks) > 1 else ""
    return (
        f"{several}{made['parameters'] / 1e6:.2f} million parameters, {'; '.join(map(_steps, networks))}, synthetic "
        f"images alone ([card](../../weights/{spec.task}/MODEL_CARD.md))."
    )


def _steps(made: Mapping[str, Any]) -> str:
    """Of one network."""
    before = made["inherited"]
    after = f" after {before['steps']} steps in {before['hours']:.3g} hours" if before["steps"] else ""
    return f"{made['steps']} steps in {made['training_hours']:g} hours on {made['hardware']}{after}"


def section(spec: ModelSpec, scored: Sequence[Scored]) -> list[str]:
    """The cases by size, and those without any lesion: lines of Markdown."""
    false_ml = [case.network.predicted_ml for case in scored if case.network.lesions == 0]
    head = (
        "lesion volume", "cases", "Dice", "one threshold's Dice", "best threshold's Dice", "lesion F1",
        "count difference", "volume difference, ml",
    )  # fmt: skip
    common = np.mean([case.dice_at for case in scored if case.network.lesions], axis=0)
    pair = np.unravel_index(int(common.argmax()), common.shape)
    return [
        f"{len(scored)} cases of seeds that were used neither in training nor in validation, metrics of ISLES'22, "
        f"mean ± standard deviation over cases. *One threshold* is the mask {CONTRASTS[spec.task][0]} that is best for "
        "all cases with a lesion taken together: what could be had without a network. *Best threshold* is chosen for "
        "each single case with its reference at hand, and cleaned by a morphological opening where that helps: nobody "
        "can do so well on a patient.",
        "",
        *table(head, [by_size(scored, low, high, pair) for low, high in SIZES_ML]),
        "",
        f"In {len(false_ml)} cases without any lesion the network finds {np.mean(false_ml):.2f} ml on average, nothing "
        f"at all in {false_ml.count(0.0)} of them.",
    ]


def by_size(scored: Sequence[Scored], low: float, high: float, pair: tuple[np.intp, ...]) -> Row:
    """One row of the table: cases whose lesions together have this volume. pair: of the thresholds for all."""
    group = [case for case in scored if case.network.lesions and low <= case.network.volume_ml < high]
    title = f"{low:g} to {high:g} ml" if np.isfinite(high) else f"over {low:g} ml"
    columns = (
        ([case.network.dice for case in group], 2),
        ([float(case.dice_at[pair]) for case in group], 2),
        ([case.oracle.dice for case in group], 2),
        ([case.network.lesion_f1 for case in group], 2),
        ([case.network.lesion_count_difference for case in group], 1),
        ([case.network.volume_difference_ml for case in group], 1),
    )
    shown = (f"{np.mean(v):.{d}f} ± {np.std(v, ddof=1):.{d}f}" if len(v) > 1 else "–" for v, d in columns)
    return (title, str(len(group)), *shown)


def table(head: Row, rows: Sequence[Row]) -> list[str]:
    """Markdown."""
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]
