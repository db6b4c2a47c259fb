"""What a scanner does to a patient whatever the contrast: coil, point spread, slices, noise, ghosts, distortion."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segsync_train.config.ranges import Range
from segsync_train.config.synthesis import AcquisitionConfig
from segsync_train.synthesis.fields import (
    Draw,
    along,
    box_matrix,
    gaussian,
    linear_matrix,
    sample,
    shift_along,
    smoothstep,
)
from segsync_train.synthesis.scene import Scene, rotation_zyx
from segsync_train.synthesis.tissues import Tissue

#: Full width at half maximum of a Gaussian, in its standard deviations.
FWHM = 2.355


@dataclass(frozen=True)
class Slices:
    """The slices of one series: `take` (slices, side) averages over each slice, `give` (side, slices) interpolates."""

    axis: int
    take: Tensor
    give: Tensor

    def acquire(self, volume: Tensor) -> Tensor:
        """(..., Z, Y, X) as slices along `axis`."""
        return along(volume, self.take, self.axis)

    def regrid(self, slices: Tensor) -> Tensor:
        """Slices back on the model's grid, by linear interpolation as a reader of thick slices has to."""
        return along(slices, self.give, self.axis)


def draw_slices(draw: Draw, scene: Scene, config: AcquisitionConfig, thickness: Range | None = None) -> Slices:
    """Orientation, thickness, gap and place of a series' slices."""
    axis = draw.choice(config.slice_axis)
    side = scene.size_zyx[axis]
    width = draw.uniform(thickness or config.slice_mm) / scene.spacing_mm
    step = max(width * (1 + draw.uniform(config.gap)), 1.0)
    count = max(int((side - 1) / step), 1)
    slack = side - 1 - (count - 1) * step
    centres = draw.uniform((0.0, slack)) * 0.5 + slack * 0.25 + torch.arange(count) * step
    take = box_matrix(side, centres, width).to(draw.device)
    return Slices(axis - 3, take, linear_matrix(side, centres).to(draw.device))


def receive_profile(draw: Draw, scene: Scene, config: AcquisitionConfig) -> Tensor:
    """Brightness by place (Z, Y, X), mean about 1: elements around the head, bright at its rim, and a smooth bias.

    The root of the sum of squares of the elements' profiles, each falling with the square of the distance; computed
    coarsely, as it is smooth.
    """
    coarse = [max(4, round(side * scene.spacing_mm / 10.0)) for side in scene.size_zyx]
    size = np.array(scene.size_zyx) * scene.spacing_mm
    axes = [torch.linspace(0, float(length), points) for length, points in zip(size, coarse, strict=True)]
    at = torch.stack(torch.meshgrid(*axes, indexing="ij")).to(draw.device)
    log_bias = draw.uniform(config.bias) * draw.smooth_noise(coarse, draw.uniform((3.0, 9.0)))[0]
    if not draw.chance(config.corrected):
        count = draw.integer(*config.coils)
        directions = draw.scalars.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        # No element below the head; all at some distance from the skin.
        directions[:, 0] = np.abs(directions[:, 0]) - 0.35
        places = size / 2 + directions * (np.maximum(size / 2, 85.0) + draw.uniform((2.0, 30.0)))
        gains = np.exp(draw.scalars.normal(0.0, 0.25, count))
        depth = draw.uniform((25.0, 60.0))
        power = torch.zeros(coarse, device=draw.device)
        for place, gain in zip(places, gains, strict=True):
            square = ((at - torch.tensor(place, dtype=torch.float32, device=draw.device).view(3, 1, 1, 1)) ** 2).sum(0)
            power += (gain / (1 + square / depth**2)) ** 2
        log_bias = log_bias + draw.uniform(config.coil_exponent) * 0.5 * torch.log(power)
    fine = F.interpolate(log_bias[None, None], size=scene.size_zyx, mode="trilinear", align_corners=True)[0, 0]
    return torch.exp(fine - fine.mean())


def echo_planar(volume: Tensor, scene: Scene, mm_per_ppm: float, extra_vox: Tensor | float = 0.0) -> Tensor:
    """Displace (C, Z, Y, X) along Y by the field's deviation; signal piles up where voxels are pressed together."""
    shift = scene.field_ppm * (mm_per_ppm / scene.spacing_mm) + extra_vox
    stretch = 1 + torch.gradient(shift, dim=1)[0]
    return shift_along(volume, shift, -2) * stretch.clamp(0.1, 4.0)


def displaced(volume: Tensor, scene: Scene, mm_per_ppm: float, extra_vox: Tensor | float = 0.0) -> Tensor:
    """The same displacement for fractions (C, Z, Y, X), which keep their values."""
    return shift_along(volume, scene.field_ppm * (mm_per_ppm / scene.spacing_mm) + extra_vox, -2)


def point_spread(draw: Draw, volume: Tensor, scene: Scene, slices: Slices, config: AcquisitionConfig) -> Tensor:
    """Blur within the slices by the resolution in plane, beyond that of the model's grid."""
    fwhm = [np.sqrt(max(draw.uniform(config.in_plane_mm) ** 2 - scene.spacing_mm**2 / 2, 0.0)) for _ in range(2)]
    sigmas = [float(width) / FWHM / scene.spacing_mm for width in fwhm]
    sigmas.insert(slices.axis + 3, 0.0)
    return gaussian(volume, sigmas)


def add_noise(draw: Draw, slices: Tensor, std: float, smooth_vox: float, axis: int) -> Tensor:
    """Magnitude of slices (Z, Y, X) with complex normal noise: Rician, as MR images have it; smooth within a slice."""
    noise = draw.noise((2, *slices.shape))
    if smooth_vox > 0.1:
        sigmas = [smooth_vox] * 3
        sigmas[axis] = 0.0
        noise = gaussian(noise, sigmas)
        noise = noise / noise.std()
    return torch.sqrt((slices + std * noise[0]) ** 2 + (std * noise[1]) ** 2)


def add_ghost(draw: Draw, volume: Tensor, spacing_mm: float, config: AcquisitionConfig) -> Tensor:
    """The half-field-of-view ghost of echo-planar images, along Y (..., Z, Y, X)."""
    strength = draw.uniform(config.ghost) * draw.chance(0.6)
    away = round(draw.uniform((100.0, 130.0)) / spacing_mm)
    side = volume.shape[-2]
    if strength == 0.0 or away >= side:
        return volume
    ghosted = volume.clone()
    ghosted[..., away:, :] += strength * volume[..., : side - away, :]
    ghosted[..., : side - away, :] += strength * volume[..., away:, :]
    return ghosted


def add_motion(draw: Draw, volume: Tensor, chance: float = 0.25) -> Tensor:
    """Copies of the image along one direction in plane, as a moving head leaves them (..., Z, Y, X)."""
    if not draw.chance(chance):
        return volume
    axis = -1 - draw.integer(0, 1)
    step = draw.integer(2, 12)
    moved = volume
    for order in range(1, draw.integer(2, 4)):
        weight = draw.uniform((0.01, 0.1)) / order
        sign = 1.0 if draw.chance(0.7) else -1.0
        echo = torch.roll(volume, order * step, axis) + torch.roll(volume, -order * step, axis)
        moved = moved + sign * weight * echo
    return moved.clamp(min=0)


def slice_gains(draw: Draw, slices: Slices, std: float) -> Tensor:
    """Brightness of each slice, shaped to multiply (Z, Y, X) slices."""
    shape = [1, 1, 1]
    shape[slices.axis] = slices.take.shape[0]
    gains = np.exp(draw.scalars.normal(0.0, std, slices.take.shape[0]))
    return torch.tensor(gains, dtype=torch.float32, device=draw.device).view(shape)


def moved(draw: Draw, volume: Tensor, scene: Scene, config: AcquisitionConfig) -> Tensor:
    """(C, Z, Y, X) of a patient who lay otherwise: a small rigid motion between two series."""
    limit = config.rotation_degrees * draw.uniform((0.0, 1.0))
    rotation = rotation_zyx(
        (draw.uniform((-limit, limit)), draw.uniform((-limit, limit)), draw.uniform((-limit, limit)))
    )
    reach = config.shift_mm / scene.spacing_mm * draw.uniform((0.0, 1.0))
    shift = np.array([draw.uniform((-reach, reach)) for _ in range(3)])
    middle = (np.array(scene.size_zyx) - 1) / 2
    axes = [torch.arange(side, device=volume.device, dtype=torch.float32) for side in scene.size_zyx]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    matrix = torch.tensor(rotation, dtype=torch.float32, device=volume.device)
    offset = torch.tensor(middle + shift - rotation @ middle, dtype=torch.float32, device=volume.device)
    return sample(volume, (matrix @ index.flatten(1)).view_as(index) + offset.view(3, 1, 1, 1))


def within_skull(draw: Draw, scene: Scene) -> Tensor:
    """Fraction (Z, Y, X) of what a skull-stripping program takes for brain: tissue, ventricles, some fluid around."""
    outer = draw.uniform((0.1, 0.6)) * scene.tissues[Tissue.OUTER_CSF]
    return (scene.parenchyma + scene.tissues[Tissue.VENTRICLE] + outer).clamp(0, 1)


def brain_mask(draw: Draw, inside: Tensor, spacing_mm: float) -> Tensor:
    """What such a program keeps (0 or 1) of `within_skull`: its edge here too wide, there too narrow."""
    wide = gaussian(inside, draw.uniform((1.5, 4.0)) / spacing_mm)
    wobble = draw.uniform((0.0, 0.12)) * draw.smooth_noise(inside.shape, draw.uniform((4.0, 12.0)))[0]
    return (wide + wobble * smoothstep(wide, 0.01, 0.2) > draw.uniform((0.35, 0.6))).float()
