"""How well a segmentation fits its reference: overlap, surface distances in mm, volumes in ml, lesions found.

Overlap, volumes and lesions are counted here; surfaces and their distances are MONAI's (`monai.metrics.utils`). What
differs between challenges, and nothing else, is a `Rules`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from monai.metrics.utils import get_mask_edges, get_surface_distance
from scipy import ndimage
from sklearn.metrics import auc, precision_recall_curve

from segsync.arrays import Array, FloatArray, Mask, Triple, bounding_box

Components = npt.NDArray[np.int32]
#: Numbers (2, n) of components of the reference and of the prediction.
Pairs = npt.NDArray[np.int32]

NAN = math.nan


@dataclass(frozen=True)
class Rules:
    """What a challenge counts as a lesion, and when one is found.

    Attributes:
        name: In settings.
        title: Its own.
        source: Where it is written.
        neighbours: 26 or 6 voxels that make two voxels one lesion.
        min_iou: A reference lesion is found by a predicted one whose intersection over union reaches this, one by one;
            0: by any voxel of the prediction.
        ignored_voxels: Lesions of so many voxels or fewer are removed from both masks before anything is measured.
        probability_map: Whether a probability map is scored beside the mask.
        ranked: The fields of `Scores` that the leaderboard ranks.
    """

    name: str
    title: str
    source: str
    neighbours: Literal[6, 26] = 26
    min_iou: float = 0.0
    ignored_voxels: int = 0
    probability_map: bool = False
    ranked: tuple[str, ...] = ("dice", "volume_difference_ml", "lesion_count_difference", "lesion_f1")


RULES = {
    rules.name: rules
    for rules in (
        Rules("isles22", "ISLES'22, and this project's own", "github.com/ezequieldlrosa/isles22, utils/eval_utils.py"),
        Rules(
            "isles24",
            "ISLES'24: panoptica, intersection over union of at least 0.2",
            "github.com/ezequieldlrosa/isles24, utils/eval_utils.py",
            min_iou=0.2,
        ),
        Rules(
            "isles26",
            "ISLES'26: panoptica, intersection over union of at least 0.25; area of the probability map",
            "isles-26.grand-challenge.org",
            min_iou=0.25,
            probability_map=True,
            ranked=("dice", "volume_difference_ml", "lesion_count_difference", "lesion_f1", "pr_auc"),
        ),
        Rules(
            "atlas",
            "ATLAS R2.0: lesions are 6-connected",
            "github.com/npnl/atlas2_grand_challenge, isles/scoring.py",
            neighbours=6,
        ),
        Rules(
            "aims-tbi",
            "AIMS-TBI 2026: lesions of 50 voxels or fewer do not count",
            "aims-tbi.grand-challenge.org",
            ignored_voxels=50,
            ranked=("dice", "hd95_mm", "assd_mm"),
        ),
    )
}


#: Of these fields of `Scores` larger values are better, of all others smaller ones.
LARGER_IS_BETTER = frozenset({"dice", "lesion_f1", "pr_auc"})


@dataclass(frozen=True)
class Scores:
    """One label of one case. Where both masks are empty Dice and lesion F1 are 1; where one is, 0 (all challenges).

    A distance to an empty mask is not defined and is NaN, as is a relative difference to an empty reference that is
    not matched; whoever averages must say how many there were.
    """

    #: Dice coefficient, 2|A∩B| / (|A| + |B|).
    dice: float
    #: Hausdorff distance: the largest distance of a surface voxel of one mask to the surface of the other, mm.
    hd_mm: float
    #: The larger of the two 95th percentiles of these distances (MONAI's definition, linear interpolation), mm.
    hd95_mm: float
    #: Average symmetric surface distance: the mean over the surface voxels of both masks, mm.
    assd_mm: float
    #: Volumes of the reference and of the prediction, and their absolute difference, ml.
    volume_ml: float
    predicted_ml: float
    volume_difference_ml: float
    #: The difference as a fraction of the reference's volume (the paper's tables give a difference without a unit).
    relative_volume_difference: float
    #: Connected components of both masks, and the absolute difference of their number.
    lesions: int
    predicted_lesions: int
    lesion_count_difference: int
    #: 2 TP / (2 TP + FP + FN): found, false and missed lesions.
    lesion_f1: float
    #: Area under the precision-recall curve of the probability map; None where no map is scored.
    pr_auc: float | None = None


def score(
    reference: Mask, predicted: Mask, spacing_zyx: Triple, rules: Rules, probability: Array | None = None
) -> Scores:
    """Compare two masks of one grid by the rules of a challenge.

    Args:
        reference: (Z, Y, X), the true mask.
        predicted: (Z, Y, X), the predicted mask.
        spacing_zyx: Distance of voxel centres, mm.
        rules: What counts as a lesion, and when one is found.
        probability: (Z, Y, X) of the label, for rules that score it (`Rules.probability_map`).

    Returns:
        The scores; `pr_auc` where a probability map is given and the rules score it.

    Raises:
        ValueError: The shapes differ.
    """
    for other in (predicted, probability):
        if other is not None and reference.shape != other.shape:
            raise ValueError(f"masks of one grid expected, found {reference.shape} and {other.shape}")
    # On the whole grid: every voxel of the background counts there.
    area = precision_recall_area(reference, probability) if rules.probability_map and probability is not None else None
    either = reference | predicted
    if either.any():
        # Nothing outside counts, and most of a CT is outside.
        box = bounding_box(either)
        reference, predicted = reference[box], predicted[box]
    reference, reference_components, lesions = lesions_of(reference, rules)
    predicted, predicted_components, count = lesions_of(predicted, rules)
    size, predicted_size = int(reference.sum()), int(predicted.sum())
    both = reference & predicted
    hd, hd95, assd = surface_distances(reference, predicted, spacing_zyx)
    found, false = matches(reference_components, predicted_components, both, (lesions, count), rules.min_iou)
    voxel_ml = math.prod(spacing_zyx) / 1000.0
    difference = abs(predicted_size - size)
    return Scores(
        dice=_ratio(2 * int(both.sum()), size + predicted_size, empty=1.0),
        hd_mm=hd,
        hd95_mm=hd95,
        assd_mm=assd,
        volume_ml=size * voxel_ml,
        predicted_ml=predicted_size * voxel_ml,
        volume_difference_ml=difference * voxel_ml,
        relative_volume_difference=_ratio(difference, size, empty=NAN if difference else 0.0),
        lesions=lesions,
        predicted_lesions=count,
        lesion_count_difference=abs(count - lesions),
        lesion_f1=_ratio(2 * found, found + lesions + false, empty=1.0),
        pr_auc=area,
    )


def _ratio(part: float, whole: float, *, empty: float) -> float:
    return part / whole if whole else empty


def components_of(mask: Mask, rules: Rules) -> tuple[Components, int]:
    """The mask's connected components, numbered from 1, and their number."""
    structure = ndimage.generate_binary_structure(3, 3 if rules.neighbours == 26 else 1)
    components, count = ndimage.label(mask, structure)
    return components.astype(np.int32, copy=False), int(count)


def lesions_of(mask: Mask, rules: Rules) -> tuple[Mask, Components, int]:
    """The mask without lesions too small to count, its connected components numbered from 1, and their number."""
    components, count = components_of(mask, rules)
    if rules.ignored_voxels and count:
        kept = np.bincount(components.ravel()) > rules.ignored_voxels
        kept[0] = False
        components = np.where(kept, np.cumsum(kept), 0)[components]
        mask, count = components > 0, int(kept.sum())
    return mask, components.astype(np.int32, copy=False), count


def matches(
    reference: Components, predicted: Components, both: Mask, counts: tuple[int, int], min_iou: float
) -> tuple[int, int]:
    """How many lesions of the reference are found, and how many predicted ones are false.

    Args:
        reference: Components of the reference.
        predicted: Components of the prediction.
        both: Where the two masks meet.
        counts: How many components each has.
        min_iou: With 0 a reference lesion is found, and a predicted one is not false, where one voxel meets the other
            mask (ISLES'22): two lesions may be found by one. Else pairs are taken from the best intersection over union
            down, each lesion once (panoptica's NaiveThresholdMatching, ISLES'24 and ISLES'26).

    Returns:
        Lesions found, and false ones.
    """
    pairs, iou = meetings(reference, predicted, both)
    found, met = match_pairs(pairs, iou, min_iou)
    return found, counts[1] - met


def meetings(reference: Components, predicted: Components, both: Mask) -> tuple[Pairs, FloatArray]:
    """The pairs (2, n) of a lesion of the reference and a predicted one that meet, and each intersection over union."""
    pairs, shared = np.unique(np.stack([reference[both], predicted[both]]), axis=1, return_counts=True)
    reference_sizes, predicted_sizes = np.bincount(reference.ravel()), np.bincount(predicted.ravel())
    iou: FloatArray = shared / (reference_sizes[pairs[0]] + predicted_sizes[pairs[1]] - shared)
    return pairs, iou


def match_pairs(pairs: Pairs, iou: FloatArray, min_iou: float) -> tuple[int, int]:
    """How many lesions of the reference are found, and how many predicted ones find one; see `matches`."""
    if min_iou == 0:
        return len(np.unique(pairs[0])), len(np.unique(pairs[1]))
    matched_reference: set[int] = set()
    matched_predicted: set[int] = set()
    for index in np.argsort(-iou, kind="stable"):
        one, other = int(pairs[0, index]), int(pairs[1, index])
        if iou[index] >= min_iou and one not in matched_reference and other not in matched_predicted:
            matched_reference.add(one)
            matched_predicted.add(other)
    return len(matched_reference), len(matched_predicted)


def precision_recall_area(reference: Mask, probability: Array) -> float:
    """Area under the precision-recall curve of a probability map, voxel by voxel (ISLES'26).

    The curve goes through every distinct probability and is integrated by trapezoids (not average precision). Without
    a reference there is no recall: a map that is the same everywhere then gives 1, any other 0.

    Args:
        reference: (Z, Y, X).
        probability: (Z, Y, X), any monotone function of the probability.

    Returns:
        The area, 0 to 1. A map that is the same everywhere gives (1 + p) / 2, with p the reference's part of the grid.
    """
    if not reference.any():
        return float(probability.min() == probability.max())
    precision, recall, _ = precision_recall_curve(reference.ravel(), probability.ravel())
    return float(auc(recall, precision))


def surface_distances(reference: Mask, predicted: Mask, spacing_zyx: Triple) -> tuple[float, float, float]:
    """HD, HD95 and ASSD in mm; NaN where a mask is empty.

    A surface voxel is one with a face neighbour outside the mask (or the image); distances are between voxel centres.
    """
    if not reference.any() or not predicted.any():
        return NAN, NAN, NAN
    edges = get_mask_edges(predicted, reference)
    distances = [
        np.asarray(get_surface_distance(one, other, spacing=spacing_zyx), dtype=np.float64)
        for one, other in (edges, edges[::-1])
    ]
    hd95 = max(float(np.percentile(directed, 95)) for directed in distances)
    together = np.concatenate(distances)
    return float(together.max()), hd95, float(together.mean())
