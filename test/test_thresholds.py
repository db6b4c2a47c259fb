"""The yardstick of the results pages: Dice of every threshold at once is that of each mask by itself."""

import numpy as np
import pytest
from thresholds import HIGH, LOW, dice, dice_of_all


def maps(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.zeros((6, 8, 10), bool)
    truth[2:4, 3:6, 4:8] = True
    high = (rng.normal(size=truth.shape) + 2 * truth).astype(np.float32)
    low = (rng.normal(size=truth.shape) - truth).astype(np.float32)
    # Values that stand exactly on a threshold.
    high.flat[::7], low.flat[::5] = HIGH[30], LOW[20]
    return high, low, rng.random(truth.shape) < 0.9, truth


@pytest.mark.parametrize("seed", [1, 2])
def test_all_thresholds_at_once_are_each_by_itself(seed: int) -> None:
    high, low, tissue, truth = maps(seed)
    found = dice_of_all(high, low, tissue, truth)
    assert found.shape == (len(HIGH), len(LOW))
    for i in range(0, len(HIGH), 10):
        for j in range(0, len(LOW), 5):
            assert found[i, j] == pytest.approx(dice((high > HIGH[i]) & (low <= LOW[j]) & tissue, truth))


def test_without_a_lesion_only_the_empty_mask_is_right() -> None:
    high, low, tissue, truth = maps(3)
    found = dice_of_all(high, low, tissue, np.zeros_like(truth))
    assert set(np.unique(found)) == {0.0, 1.0}
    assert found[-1, 0] == 1.0
    assert found[0, -1] == 0.0
