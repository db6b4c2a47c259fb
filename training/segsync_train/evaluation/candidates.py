"""Every operating point that is tried, and the scores of a case at each, from one look at its components a threshold.

Which components stay is all that size and confidence decide: what each of them adds to a score is counted once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segsync.arrays import Array, FloatArray, Mask
from segsync.bundle import DecisionSpec
from segsync.postprocess import sizes_and_peaks
from segsync_train.data.cases import NEIGHBOURS
from segsync_train.evaluation.metrics import (
    Pairs,
    Rules,
    components_of,
    lesions_of,
    match_pairs,
    meetings,
    precision_recall_area,
)

THRESHOLDS = tuple(round(0.2 + 0.05 * step, 2) for step in range(13))
COMPONENTS_ML = (0.0, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3)
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

#: What can be told from components alone. Distances of surfaces would take hours for hundreds of candidates.
TUNABLE = ("dice", "volume_difference_ml", "lesion_count_difference", "lesion_f1", "pr_auc")


#: A confidence at or below the threshold says nothing: no component is less sure.
CANDIDATES = tuple(
    DecisionSpec(threshold=threshold, min_component_ml=smallest, min_component_confidence=confidence)
    for threshold in THRESHOLDS
    for smallest in COMPONENTS_ML
    for confidence in (0.0, *(confidence for confidence in CONFIDENCES if confidence > threshold))
)


def score_candidates(
    reference: Mask,
    probability: Array,
    voxel_ml: float,
    rules: Rules,
    candidates: Sequence[DecisionSpec] = CANDIDATES,
) -> dict[str, FloatArray]:
    """Score a case at every candidate, as `metrics.score` would score the mask that `postprocess` makes of it.

    Args:
        reference: (Z, Y, X), the true mask.
        probability: (Z, Y, X) of any label together.
        voxel_ml: Volume of a voxel.
        rules: What counts as a lesion, and when one is found.
        candidates: What to try.

    Returns:
        By metric of TUNABLE (`pr_auc` for rules that score maps), a value for each candidate.
    """
    reference_area = _areas(reference, probability) if rules.probability_map else None
    reference, reference_lesions, lesions = lesions_of(reference, rules)
    size = int(reference.sum())
    rows: dict[int, tuple[float, ...]] = {}
    for threshold in dict.fromkeys(candidate.threshold for candidate in candidates):
        parts = _Parts.of(probability, threshold, reference, reference_lesions, rules)
        for place, candidate in enumerate(candidates):
            if candidate.threshold == threshold:
                kept = parts.kept(candidate.min_component_ml / voxel_ml, candidate.min_component_confidence)
                rows[place] = _scores(parts, kept, (size, lesions), voxel_ml, rules, reference_area)
    table = np.array([rows[place] for place in range(len(candidates))])
    return dict(zip(TUNABLE, table.T, strict=False))


@dataclass(frozen=True)
class _Parts:
    """The components of one threshold, numbered from 1; place 0 is the background.

    sizes, shared: voxels, and those that the reference holds too. whole_sizes, peaks: of the 26-connected component
    that postprocessing looks at, which several lesions of 6-connected rules may share. pairs, iou: with the reference.
    """

    sizes: npt.NDArray[np.int64]
    shared: npt.NDArray[np.int64]
    whole_sizes: npt.NDArray[np.int64]
    peaks: Array
    pairs: Pairs
    iou: FloatArray
    ignored_voxels: int

    @classmethod
    def of(
        cls, probability: Array, threshold: float, reference: Mask, lesions: npt.NDArray[np.int32], rules: Rules
    ) -> "_Parts":
        mask = probability >= threshold
        whole, _ = ndimage.label(mask, NEIGHBOURS)
        whole_sizes, peaks = sizes_and_peaks(whole.astype(np.uint32), probability)
        parts, count = components_of(mask, rules)
        belongs = np.zeros(count + 1, dtype=np.int64)
        belongs[parts[mask]] = whole[mask]
        both = mask & reference
        return cls(
            np.bincount(parts[mask], minlength=count + 1),
            np.bincount(parts[both], minlength=count + 1),
            whole_sizes[belongs],
            peaks[belongs],
            *meetings(lesions, parts, both),
            rules.ignored_voxels,
        )

    def kept(self, min_voxels: float, min_confidence: float) -> npt.NDArray[np.bool_]:
        """Which components stay, and count as lesions."""
        kept: npt.NDArray[np.bool_] = (
            (self.whole_sizes >= min_voxels) & (self.peaks >= min_confidence) & (self.sizes > self.ignored_voxels)
        )
        kept[0] = False
        return kept


def _scores(
    parts: _Parts,
    kept: npt.NDArray[np.bool_],
    reference: tuple[int, int],
    voxel_ml: float,
    rules: Rules,
    areas: tuple[float, float] | None,
) -> tuple[float, ...]:
    """The metrics of TUNABLE. reference: its voxels and lesions; areas: of the map, and of a constant one."""
    size, lesions = reference
    predicted, shared, count = int(parts.sizes[kept].sum()), int(parts.shared[kept].sum()), int(kept.sum())
    there = kept[parts.pairs[1]]
    found, met = match_pairs(parts.pairs[:, there], parts.iou[there], rules.min_iou)
    scores = (
        2 * shared / (size + predicted) if size + predicted else 1.0,
        abs(predicted - size) * voxel_ml,
        float(abs(count - lesions)),
        2 * found / (found + lesions + count - met) if lesions + count else 1.0,
    )
    return scores if areas is None else (*scores, areas[0] if predicted else areas[1])


def _areas(reference: Mask, probability: Array) -> tuple[float, float]:
    """The area of the map, and of the constant one that is written where the mask is empty."""
    constant = np.zeros(reference.shape, dtype=np.float32)
    return precision_recall_area(reference, probability), precision_recall_area(reference, constant)
