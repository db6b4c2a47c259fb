"""Augmentation of labelled patches: the paper's list (section 2.4) from MONAI, a function of the seed alone."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandAffined,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
    RandShiftIntensity,
    RandSimulateLowResolution,
)

from segsync.arrays import Array, LabelMap, SizeZYX
from segsync_train.config.run import AugmentationConfig


class Augmentation:
    """Rotation and zoom, flips; then intensities, blur, noise and low resolution, each channel on its own."""

    def __init__(
        self,
        config: AugmentationConfig,
        patch_zyx: SizeZYX,
        mirror_axes: Sequence[int],
        optional: Sequence[int] = (),
        scalars: Sequence[int] = (),
        reference: int = 0,
    ) -> None:
        """Set up every transform once.

        Args:
            config: Their probabilities and ranges.
            patch_zyx: Voxels of the patch that comes out.
            mirror_axes: 0 = Z, 1 = Y, 2 = X.
            optional: Numbers of the channels that may be missing.
            scalars: Numbers of those that are the same everywhere; the network is given them times `reference`, as
                `segsync.pipeline` has them.
            reference: Number of the reference channel.
        """
        self.scalars, self.reference = list(scalars), reference
        self.config = config
        self.patch_zyx = patch_zyx
        self.mirror_axes = tuple(mirror_axes)
        self.optional = tuple(optional)
        angle = math.radians(config.degrees)
        self._rotate = RandAffined(
            keys=("image", "label"),
            spatial_size=patch_zyx,
            prob=1.0,
            rotate_range=(angle, angle, angle),
            # MONAI scales coordinates, so that a factor below 1 enlarges, and takes its difference from 1.
            scale_range=[(1 / config.zoom[1] - 1, 1 / config.zoom[0] - 1)] * 3,
            mode=("bilinear", "nearest"),
            padding_mode="border",
        )
        self._intensity = Compose(
            [
                RandScaleIntensity(config.strength, prob=config.brightness),
                RandScaleIntensityFixedMean(prob=config.contrast, factors=config.strength),
                RandAdjustContrast(prob=config.gamma, gamma=config.gamma_range, retain_stats=True),
                RandShiftIntensity(config.shift_offset, prob=config.shift),
                RandGaussianSmooth(config.smooth_sigma, config.smooth_sigma, config.smooth_sigma, prob=config.smooth),
                RandGaussianNoise(prob=config.noise, std=config.noise_std),
                RandSimulateLowResolution(prob=config.low_resolution, zoom_range=config.low_resolution_zoom),
                RandAdjustContrast(
                    prob=config.inverted_gamma, gamma=config.gamma_range, invert_image=True, retain_stats=True
                ),
            ]
        )

    def window(self, rng: np.random.Generator) -> SizeZYX:
        """Size of the window to cut for one patch: larger than the patch where it will be rotated and zoomed.

        To be called before the patch is augmented, with the same generator.
        """
        if rng.random() >= self.config.rotate_zoom:
            return self.patch_zyx
        reach = max(1.0, 1 / self.config.zoom[0]) * (1 + math.sin(math.radians(min(self.config.degrees, 45.0))) / 2)
        # One voxel more at the least: by the size `__call__` knows that the window is to be rotated and zoomed.
        z, y, x = (max(side + 1, math.ceil(side * reach)) for side in self.patch_zyx)
        return z, y, x

    def __call__(self, image: Array, label: LabelMap, rng: np.random.Generator) -> tuple[Array, LabelMap]:
        """Augment a patch.

        Args:
            image: (C, z, y, x) of the size that `window` gave.
            label: (z, y, x), likewise.
            rng: All that is random.

        Returns:
            Both, of the patch's size.
        """
        if label.shape != self.patch_zyx:
            self._rotate.set_random_state(_seed(rng))
            rotated = self._rotate({"image": image, "label": label[None].astype(np.float32)})
            image, label = _array(rotated["image"]), _array(rotated["label"])[0].astype(np.uint8)
        axes = tuple(axis for axis in self.mirror_axes if rng.random() < self.config.flip)
        image = np.ascontiguousarray(np.flip(image, tuple(axis + 1 for axis in axes)), dtype=np.float32)
        label = np.ascontiguousarray(np.flip(label, axes))
        for number, channel in enumerate(image):
            missing = number in self.optional and rng.random() < self.config.drop_optional
            self._intensity.set_random_state(_seed(rng))
            if missing:
                channel[:] = 0.0
            elif number not in self.scalars and channel.any():  # a channel that the patient has not stays zero
                image[number] = _array(self._intensity(channel[None]))[0]
        image[self.scalars] *= image[self.reference]
        return image, label


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _array(value: Any) -> Array:
    """MONAI gives tensors or arrays, with metadata or without."""
    array: Array = value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    return array
