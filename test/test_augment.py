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


def test_image_and_label_are_mirrored_alike_along_the_axes_that_may_be() -> None:
    """Every voxel tells its place: of forty patches about half are mirrored along each axis named, none along Z."""
    place = np.indices((4, 5, 6)).astype(np.float32)
    label = (np.arange(120) % 7).astype(np.uint8).reshape(4, 5, 6)
    augmentation = Augmentation(AugmentationConfig(**NOTHING | {"flip": 0.5}, rotate_zoom=0), (4, 5, 6), (1, 2))
    mirrored = np.zeros(3, int)
    for seed in range(40):
        image, turned = augmentation(place.copy(), label.copy(), np.random.default_rng(seed))
        assert np.array_equal(turned, label[tuple(image.astype(int))])
        mirrored += image[:, 0, 0, 0] > 0
    assert mirrored[0] == 0
    assert (mirrored[1:] > 10).all()
    assert (mirrored[1:] < 30).all()


def test_only_an_optional_channel_is_left_out_and_a_missing_one_stays_zero() -> None:
    images = np.random.default_rng(0).standard_normal((3, 8, 8, 8)).astype(np.float32) + 1
    images[2] = 0
    config = AugmentationConfig(drop_optional=0.5, rotate_zoom=0, noise=1, shift=1, brightness=1)
    augmentation = Augmentation(config, (8, 8, 8), (2,), optional=(1, 2))
    given = [
        augmentation(images.copy(), np.zeros((8, 8, 8), np.uint8), np.random.default_rng(seed))[0].any((1, 2, 3))
        for seed in range(40)
    ]
    always, sometimes, never = np.mean(given, axis=0)
    assert (always, never) == (1, 0)
    assert 0.25 < sometimes < 0.75


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
