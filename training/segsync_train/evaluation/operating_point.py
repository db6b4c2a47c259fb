"""Threshold and smallest component of a trained network, chosen on the run's validation cases."""

import csv
import itertools
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import NonNegativeFloat
from scipy import ndimage

from segsync.arrays import Array
from segsync.atomic import whole_file, why_not
from segsync.errors import InputError, OutputError
from segsync_train.config.run import Fraction, SyntheticData
from segsync_train.config.settings import Frozen
from segsync_train.data.cases import NEIGHBOURS, LabelledCase
from segsync_train.data.sources import open_data
from segsync_train.runs.checkpoints import load_checkpoint
from segsync_train.runs.devices import Processes, training_device
from segsync_train.runs.folder import RunFolder
from segsync_train.trainer.predictor import torch_pipeline
from segsync_train.trainer.transfer import trained_network

log = logging.getLogger(__name__)

FILE = "operating_point.json"
#: Every pair that was tried, so that the choice can be judged.
TABLE = "operating_points.csv"
THRESHOLDS = tuple(round(0.2 + 0.05 * step, 2) for step in range(13))
COMPONENTS_ML = (0.0, 0.02, 0.04, 0.08, 0.15, 0.3)


class OperatingPoint(Frozen):
    """What was chosen, and how well it did: means over the cases, 0 cases where nothing was chosen."""

    threshold: Fraction = 0.5
    min_component_ml: NonNegativeFloat = 0.0
    dice: Fraction | None = None
    lesion_f1: Fraction | None = None
    cases: int = 0


class _Case(Frozen):
    """One case at one threshold and smallest component."""

    dice: Fraction
    lesion_f1: Fraction


def choose_operating_point(
    run: Path, device: str = "auto", checkpoint: Path | None = None, cases: int | None = None
) -> OperatingPoint:
    """Score every pair of THRESHOLDS and COMPONENTS_ML on the validation cases of a run; keep all scores and the choice
    in its folder.

    A score is the mean of Dice and lesion F1, both 1 where neither has a lesion and 0 where one of them has none
    (ISLES'22). checkpoint: another one than the run's best. cases: so many synthetic cases, in place of the run's
    number. Raises WeightsError for a run without weights, InputError where its data are not there or `cases` is given
    for a folder's.
    """
    found = load_checkpoint(checkpoint or RunFolder(run).best)
    config, network = trained_network(found)
    if cases is not None:
        if not isinstance(config.data, SyntheticData):
            raise InputError(f"{run}: expected a run on synthetic data where cases are to be drawn; leave --cases out")
        config = config.model_copy(update={"data": config.data.model_copy(update={"validation_cases": cases})})
    place = training_device(device, Processes())
    network.to(place)
    pipeline = torch_pipeline(config, network, place)
    pairs = list(itertools.product(THRESHOLDS, COMPONENTS_ML))
    scores: list[list[_Case]] = []
    for case in open_data(config, run, Processes()).validation:
        probabilities, _ = pipeline.predict(np.array(case.image), np.array(case.tissue))
        scores.append(score_pairs(case, probabilities.sum(0), THRESHOLDS, COMPONENTS_ML))
        log.info("%s scored", case.name)
    table = np.array([[(score.dice, score.lesion_f1) for score in row] for row in scores])
    chosen = choose(table.mean(2), [threshold for threshold, _ in pairs])
    (threshold, smallest), (dice, f1) = pairs[chosen], table[:, chosen].mean(0)
    point = OperatingPoint(
        threshold=threshold, min_component_ml=smallest, dice=float(dice), lesion_f1=float(f1), cases=len(scores)
    )
    path = run / FILE
    try:
        with whole_file(run / TABLE) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["threshold", "min_component_ml", "dice", "lesion_f1"])
            writer.writerows(
                [*pair, *(f"{mean:.4f}" for mean in row)] for pair, row in zip(pairs, table.mean(0), strict=True)
            )
        with whole_file(path) as part:
            part.write_text(point.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: expected to write it, found {why_not(run, error)}") from error
    return point


def choose(scores: Array, thresholds: Sequence[float]) -> int:
    """The pair to take, of scores (cases, pairs): of each threshold's best pair, the one nearest to 0.5 that the cases
    cannot tell from the best of all.

    Not to be told apart is a mean difference within its own standard error, the rule of one standard error (Breiman et
    al. 1984) for paired scores. The best of a flat table is chance; 0.5 is what the loss was trained for.
    """
    means = scores.mean(0)
    best_at = {at: max((p for p, t in enumerate(thresholds) if t == at), key=means.__getitem__) for at in thresholds}
    behind = scores[:, [int(means.argmax())]] - scores
    error = behind.std(0, ddof=1) / math.sqrt(len(scores)) if len(scores) > 1 else np.zeros(len(means))
    equal = [pair for pair in best_at.values() if behind[:, pair].mean() <= error[pair]]
    # Rounded: 0.55 is as near to 0.5 as 0.45 is.
    return min(equal, key=lambda pair: (round(abs(thresholds[pair] - 0.5), 6), -means[pair]))


def score_pairs(
    case: LabelledCase, probability: Array, thresholds: Sequence[float], components_ml: Sequence[float]
) -> list[_Case]:
    """The case's scores at every threshold, and within it every smallest component, in that order.

    probability: (Z, Y, X) of any label together.
    """
    reference = np.asarray(case.label) > 0
    reference_components, lesions = ndimage.label(reference, NEIGHBOURS)
    scores = []
    for threshold in thresholds:
        predicted_components, count = ndimage.label(probability >= threshold, NEIGHBOURS)
        sizes = np.bincount(predicted_components.ravel(), minlength=count + 1)
        for smallest in components_ml:
            kept = sizes * case.voxel_ml >= smallest
            kept[0] = False
            mask = kept[predicted_components]
            both = int(mask.sum()) + int(reference.sum())
            dice = 2 * int((mask & reference).sum()) / both if both else 1.0
            found = len(np.unique(reference_components[mask & reference]))
            false = int(kept.sum()) - len(np.unique(predicted_components[mask & reference]))
            lesion_f1 = 2 * found / (found + lesions + false) if lesions + false else 1.0
            scores.append(_Case(dice=dice, lesion_f1=lesion_f1))
    return scores


def read_operating_point(run: Path) -> OperatingPoint:
    """What was chosen for a run; a threshold of 0.5 and no smallest component where nothing was."""
    path = run / FILE
    if not path.is_file():
        log.warning("%s: no operating point was chosen (segsync-train tune); the threshold is 0.5", run)
        return OperatingPoint()
    try:
        return OperatingPoint.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: expected an operating point, found another file; run segsync-train tune") from error
