"""Augmentation of labelled patches does what its settings say."""

import numpy as np
import pytest

from segsync_train.config.run import AugmentationConfig
from segsync_train.data.augment import Augmentation
from training_cases import NO_AUGMENTATION


@pytest.mark.parametrize(("zoom", "least", "most"), [((1.25, 1.3), 1.6, 2.8), ((0.7, 0.75), 0.2, 0.6)])
def test_a_zoom_that_only_enlarges_is_done_without_rotations_too(
    zoom: tuple[float, float], least: float, most: float
) -> None:
    """A cube in the middle has zoom³ times its volume afterwards, and image and label still fit each other."""
    config = AugmentationConfig(**NO_AUGMENTATION, rotate_zoom=1, degrees=0, zoom=zoom)
    augmentation = Augmentation(config, (32, 32, 32), ())
    rng = np.random.default_rng(0)
    sides = augmentation.window(rng)
    label = np.zeros(sides, dtype=np.uint8)
    label[tuple(slice(side // 2 - 6, side // 2 + 6) for side in sides)] = 1
    image, rotated = augmentation(label[None].astype(np.float32), label, rng)
    assert rotated.shape == (32, 32, 32)
    assert least < rotated.sum() / label.sum() < most
    assert np.mean((image[0] > 0.5) != (rotated == 1)) < 0.02


@pytest.mark.parametrize("axes", [(), (2,), (0, 1)])
def test_image_and_label_are_mirrored_together_along_the_axes_that_may_be(axes: tuple[int, ...]) -> None:
    always = AugmentationConfig(**{**NO_AUGMENTATION, "flip": 1}, rotate_zoom=0)
    image = np.random.default_rng(0).random((2, 4, 5, 6)).astype(np.float32)
    label = (image[0] > 0.5).astype(np.uint8)
    found, rotated = Augmentation(always, (4, 5, 6), axes)(image.copy(), label, np.random.default_rng(0))
    assert np.array_equal(rotated, np.flip(label, axes))
    assert np.array_equal(found, np.flip(image, tuple(axis + 1 for axis in axes)))


def test_an_optional_channel_is_taken_away_and_one_that_the_patient_has_not_stays_away() -> None:
    """Zeros, as inference gives the network; nothing is added to them."""
    noisy = AugmentationConfig(**{**NO_AUGMENTATION, "noise": 1, "shift": 1}, rotate_zoom=0, drop_optional=1)
    image = np.ones((3, 4, 5, 6), dtype=np.float32)
    image[2] = 0
    found, _ = Augmentation(noisy, (4, 5, 6), (), optional=(1,))(
        image, np.zeros((4, 5, 6), dtype=np.uint8), np.random.default_rng(0)
    )
    assert found[0].std() > 0
    assert not found[1:].any()


def test_a_patch_is_a_function_of_its_own_generator_whatever_was_augmented_before() -> None:
    augmentation = Augmentation(AugmentationConfig(rotate_zoom=0.5), (8, 8, 8), (0, 1, 2), optional=(1,))

    def patch(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        image = np.random.default_rng(9).standard_normal((2, *augmentation.window(rng))).astype(np.float32)
        return augmentation(image, (image[0] > 1).astype(np.uint8), rng)

    forwards = [patch(seed) for seed in range(8)]
    backwards = [patch(seed) for seed in reversed(range(8))][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1], other[1])
