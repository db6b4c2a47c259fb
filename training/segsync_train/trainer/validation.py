"""Validation while training: the runtime's pipeline on fixed prepared cases, a score per case."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from segsync.arrays import LabelMap, Mask
from segsync.pipeline import Options, Pipeline
from segsync.postprocess import components_of
from segsync_train.config.labels import LabelSet
from segsync_train.data.cases import LabelledCase


@dataclass(frozen=True)
class CaseScore:
    """How one case was segmented, on the model's grid.

    Attributes:
        name: Of the case.
        dice: One value a label, 1 where neither has a voxel of it (ISLES'22).
        holds: Whether the reference has a label, one a label.
        lesions: Components of the foreground in the reference.
        found: Those of them that are hit.
        false: Predicted ones that hit none.
        volume_ml: Of the reference.
        predicted_ml: Of the prediction.
    """

    name: str
    dice: tuple[float, ...]
    holds: tuple[bool, ...]
    lesions: int
    found: int
    false: int
    volume_ml: float
    predicted_ml: float


def validate(
    network: nn.Module, cases: Sequence[LabelledCase], pipeline: Pipeline, overlap: float
) -> Iterator[tuple[LabelledCase, LabelMap, CaseScore]]:
    """Segment and score prepared cases on the model's grid. The network is in eval mode meanwhile.

    Args:
        network: What `pipeline` calls.
        cases: On the model's grid.
        pipeline: Its way from an image to labels.
        overlap: Fraction of a window that neighbours have in common.

    Yields:
        Each case, the labels found in it as numbered in prepared cases (Z, Y, X), and its score.
    """
    known = LabelSet(labels=pipeline.spec.labels, regions=pipeline.spec.regions)
    was_training = network.training
    network.eval()
    try:
        for case in cases:
            image, tissue = np.array(case.image), np.array(case.tissue)  # off the disk, in one go
            probabilities, _ = pipeline.predict(image, tissue, Options(overlap))
            labels, _ = pipeline.labels(probabilities, case.grid, case.grid)
            predicted = places_of(labels, known.values)
            yield case, predicted, score_case(case, predicted, known.places)
    finally:
        network.train(was_training)


def places_of(labels: LabelMap, values: Sequence[int]) -> LabelMap:
    """Number labels as prepared cases do.

    Args:
        labels: (Z, Y, X), with the values of the settings.
        values: `LabelSet.values`.

    Returns:
        (Z, Y, X), each value by its place among the values, from 1, as in `LabelledCase.label`; 0 stays background.
    """
    places = np.zeros(256, dtype=np.uint8)
    places[list(values)] = np.arange(1, len(values) + 1)
    placed: LabelMap = places[labels]
    return placed


def score_case(case: LabelledCase, predicted: LabelMap, labels: Sequence[Sequence[int]]) -> CaseScore:
    """Compare a prediction with the case's label map, but for what nobody labelled.

    Args:
        case: With the reference.
        predicted: (Z, Y, X), values by their place, as in the case.
        labels: The places of each label (`LabelSet.places`).

    Returns:
        The case's scores.
    """
    predicted = np.where(case.ignored, 0, predicted)
    reference = np.where(case.ignored, 0, case.label)
    reference_components, lesions = components_of(reference > 0)
    predicted_components, count = components_of(predicted > 0)
    return CaseScore(
        name=case.name,
        dice=tuple(_dice(np.isin(reference, places), np.isin(predicted, places)) for places in labels),
        holds=tuple(bool(np.isin(reference, places).any()) for places in labels),
        lesions=lesions,
        found=int(np.count_nonzero(np.unique(reference_components[predicted > 0]))),
        false=count - int(np.count_nonzero(np.unique(predicted_components[reference > 0]))),
        volume_ml=float((reference > 0).sum() * case.voxel_ml),
        predicted_ml=float((predicted > 0).sum() * case.voxel_ml),
    )


def _dice(a: Mask, b: Mask) -> float:
    both = int(a.sum()) + int(b.sum())
    return 1.0 if both == 0 else 2.0 * int((a & b).sum()) / both


def summary(scores: Sequence[CaseScore]) -> dict[str, float]:
    """Means over the cases.

    Args:
        scores: One a case.

    Returns:
        By name, each below `validation/`; empty without cases.
        `score`: mean Dice over labels and cases, which decides on the best weights.
        `dice_N`: mean Dice of label N. A label that no case holds, though some hold another one, has no mean and does
        not count: its Dice is 1 wherever nothing is found.
        `lesion_f1`: over all lesions of all cases together.
        `false_ml`: mean volume found in cases that have no lesion at all.
    """
    if not scores:
        return {}
    dice = np.asarray([score.dice for score in scores])
    held = np.flatnonzero(np.any([score.holds for score in scores], axis=0))
    # Without any lesion in any case, what is scored is that nothing is found.
    counted = held if held.size else np.arange(dice.shape[1])
    hits = sum(score.found for score in scores)
    missed = sum(score.lesions for score in scores) - hits
    wrong = sum(score.false for score in scores)
    empty = [score.predicted_ml for score in scores if score.volume_ml == 0]
    result = {"validation/score": float(dice[:, counted].mean())}
    result |= {f"validation/dice_{i}": float(dice[:, i - 1].mean()) for i in counted + 1}
    result["validation/lesion_f1"] = 2 * hits / (2 * hits + missed + wrong) if hits + missed + wrong else 1.0
    if empty:
        result["validation/false_ml"] = float(np.mean(empty))
    return result


def labels_in_none(cases: Sequence[LabelledCase], labels: LabelSet) -> dict[int, str]:
    """Find labels that cannot be validated.

    Args:
        cases: Those that validate.
        labels: Those of the settings.

    Returns:
        Values and names of the labels that no case holds.
    """
    missing = dict(zip(labels.labels, labels.places, strict=True))
    for case in cases:
        held = set(np.unique(case.label).tolist())
        missing = {value: places for value, places in missing.items() if held.isdisjoint(places)}
        if not missing:  # most often after a case or two; the others need not be read
            break
    return {value: labels.labels[value] for value in missing}
