"""Augmentation of labelled patches does what its settings say."""

from typing import Any

import numpy as np
import pytest

from segsync_train.augment import Augmentation
from segsync_train.config import AugmentationConfig

NOTHING: dict[str, Any] = {"flip": 0, "noise": 0, "smooth": 0, "brightness": 0, "contrast": 0, "gamma": 0, "shift": 0}


@pytest.mark.parametrize(("zoom", "least", "most"), [((1.25, 1.3), 1.6, 2.8), ((0.7, 0.75), 0.2, 0.6)])
def test_a_zoom_that_only_enlarges_is_done_without_rotations_too(
    zoom: tuple[float, float], least: float, most: float
) -> None:
    """A cube in the middle has zoom³ times its volume afterwards, and image and label still fit each other."""
    config = AugmentationConfig(**NOTHING, rotate_zoom=1, degrees=0, zoom=zoom)
    augmentation = Augmentation(config, (32, 32, 32), ())
    rng = np.random.default_rng(0)
    sides = augmentation.window(rng)
    label = np.zeros(sides, dtype=np.uint8)
    label[tuple(slice(side // 2 - 6, side // 2 + 6) for side in sides)] = 1
    image, turned = augmentation(label[None].astype(np.float32), label, rng)
    assert turned.shape == (32, 32, 32)
    assert least < turned.sum() / label.sum() < most
    assert np.mean((image[0] > 0.5) != (turned == 1)) < 0.02
