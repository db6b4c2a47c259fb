"""What a threshold would do: the yardstick of networks that find lesions. Maps are normalised, (Z, Y, X)."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segsync.arrays import Array, Mask

Values = npt.NDArray[np.float64]

#: Two maps (Z, Y, X) of each task's channels of which a lesion is high in the first and low in the second.
CONTRASTS: dict[str, tuple[str, Callable[[Array], tuple[Array, Array]]]] = {
    "isles22": ("DWI > a, ADC ≤ b", lambda image: (image[0], image[1])),
    "isles24": ("Tmax > a, CBF ≤ b", lambda image: (image[2], image[3])),
}
#: Thresholds that are tried for all cases together: a, and b.
HIGH, LOW = np.linspace(-2.0, 8.0, 101), np.linspace(-1.5, 4.0, 56)


def dice(a: Mask, b: Mask) -> float:
    """Dice of two masks, 1 where both are empty."""
    both = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / both if both else 1.0


def best_mask(high: Array, low: Array, tissue: Mask, truth: Mask) -> Mask:
    """The mask high > a and low ≤ b in tissue of the largest Dice, a and b chosen for this very case with its truth at
    hand.

    Speckles are taken out (opening) where that helps.
    """
    best, best_dice = np.zeros_like(truth), 1.0 if not truth.any() else 0.0
    if not truth.any():
        return best
    for a in np.quantile(high[tissue], np.linspace(0.5, 0.999, 40)):
        for b in np.unique(np.quantile(low[truth], (0.5, 0.7, 0.85, 0.95, 1.0))):
            rough = (high > a) & (low <= b) & tissue
            for mask in (rough, ndimage.binary_opening(rough)):
                value = dice(mask, truth)
                if value > best_dice:
                    best, best_dice = mask, value
    return best


def dice_of_all(high: Array, low: Array, tissue: Mask, truth: Mask) -> Values:
    """Dice (HIGH, LOW) of the masks high > a and low ≤ b in tissue, for every pair; 1 where both masks are empty.

    From one count of the voxels between the thresholds, since each mask is a corner of it.
    """

    def inside(voxels: Mask) -> Values:
        above = np.searchsorted(HIGH, high[voxels], side="left")
        below = np.searchsorted(LOW, low[voxels], side="left")
        shape = (len(HIGH) + 1, len(LOW) + 1)
        counts = np.bincount(np.ravel_multi_index((above, below), shape), minlength=shape[0] * shape[1])
        counts = counts.reshape(shape)[::-1].cumsum(0)[::-1].cumsum(1)
        corners: Values = counts[1:, :-1].astype(np.float64)
        return corners

    total = inside(tissue) + truth.sum()
    both = 2 * inside(tissue & truth)
    values: Values = np.divide(both, total, out=np.ones_like(total), where=total > 0)
    return values
