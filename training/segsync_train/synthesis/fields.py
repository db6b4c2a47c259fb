"""Random numbers and the few volume operations that every part of the generator is made of."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Range = tuple[float, float]


class Draw:
    """All randomness of one sample: scalars on the host, fields on the device; both follow from one seed."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.scalars = np.random.default_rng(seed)
        self.device = device
        self._fields = torch.Generator(device).manual_seed(int(self.scalars.integers(2**62)))

    def uniform(self, low_high: Range) -> float:
        """A number between the two."""
        return float(self.scalars.uniform(*low_high))

    def log_uniform(self, low_high: Range) -> float:
        """A positive number whose logarithm is uniform between those of the two."""
        return math.exp(self.scalars.uniform(math.log(low_high[0]), math.log(low_high[1])))

    def normal(self, mean: float, std: float) -> float:
        """A number of the normal distribution."""
        return float(self.scalars.normal(mean, std))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.scalars.random() < probability)

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return int(self.scalars.integers(low, high + 1))

    def choice(self, weights: Sequence[float]) -> int:
        """An index, drawn in proportion to the weights."""
        total = np.asarray(weights, dtype=float)
        return int(self.scalars.choice(len(total), p=total / total.sum()))

    def noise(self, size: Sequence[int]) -> Tensor:
        """White normal noise of the given shape."""
        return torch.randn(*size, generator=self._fields, device=self.device)

    def smooth_noise(self, size_zyx: Sequence[int], scale_vox: float, channels: int = 1) -> Tensor:
        """Noise (channels, Z, Y, X), standard deviation about 0.76, whose bumps are `scale_vox` voxels wide."""
        coarse = [max(2, math.ceil(side / max(scale_vox, 1.0)) + 1) for side in size_zyx]
        noise = self.noise((1, channels, *coarse))
        # Trilinear interpolation leaves (2/3)³ of the variance on average: 1.4 puts a part back.
        return 1.4 * F.interpolate(noise, size=tuple(size_zyx), mode="trilinear", align_corners=True)[0]


def gaussian(volume: Tensor, sigma_vox: float | Sequence[float]) -> Tensor:
    """Gaussian smoothing of (..., Z, Y, X); one sigma, or one for each of the three axes. Edges are repeated."""
    sigmas = [sigma_vox] * 3 if isinstance(sigma_vox, int | float) else list(sigma_vox)
    for axis, sigma in zip((-3, -2, -1), sigmas, strict=True):
        if sigma > 0.05:
            volume = along(volume, gaussian_matrix(volume.shape[axis], sigma).to(volume), axis)
    return volume


def gaussian_matrix(size: int, sigma_vox: float) -> Tensor:
    """(size, size): a row is the Gaussian weights of one output sample; rows sum to one."""
    at = torch.arange(size, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((at[:, None] - at[None]) / sigma_vox) ** 2)
    return weights / weights.sum(1, keepdim=True)


def along(volume: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Apply a matrix (out, in) along one of the last three axes (-3, -2 or -1)."""
    if axis == -1:
        return volume @ matrix.T
    if axis == -2:
        return matrix @ volume
    flat = matrix @ volume.flatten(-2)
    return flat.reshape(*flat.shape[:-1], *volume.shape[-2:])


def box_matrix(size: int, centres: Tensor, width: float) -> Tensor:
    """(len(centres), size): means of `width` samples about each centre (in samples), outer samples in part.

    A width below one sample interpolates linearly instead. Rows that lie outside the array are zero.
    """
    at = torch.arange(size, dtype=torch.float32)
    half = max(width, 1.0) / 2
    distance = (centres[:, None] - at[None]).abs()
    # Overlap of the slab with each sample's own cell; a slab as thin as a cell gives linear interpolation.
    return (half + 0.5 - distance).clamp(0, min(1.0, 2 * half)) / (2 * half)


def reduction(size_zyx: tuple[int, ...], source_mm: npt.NDArray[np.float64], spacing_mm: float) -> list[Tensor]:
    """Matrices that average an array of this size and spacing over the voxels of another spacing, one an axis."""
    matrices = []
    for size, source in zip(size_zyx, source_mm, strict=True):
        step = spacing_mm / source
        at = torch.arange(int(np.ceil(size / step))) * step + (step - 1) / 2
        matrices.append(box_matrix(size, at, step))
    return matrices


def linear_matrix(size_out: int, positions: Tensor) -> Tensor:
    """(size_out, len(positions)): linear interpolation at 0, 1, … from samples at rising `positions`; ends repeated."""
    at = torch.arange(size_out, dtype=torch.float32)
    count = len(positions)
    matrix = torch.zeros(size_out, count)
    if count == 1:
        return matrix + 1
    right = torch.searchsorted(positions.contiguous(), at).clamp(1, count - 1)
    left = right - 1
    fraction = ((at - positions[left]) / (positions[right] - positions[left])).clamp(0, 1)
    rows = torch.arange(size_out)
    matrix[rows, left] = 1 - fraction
    matrix[rows, right] = fraction
    return matrix


def sample(volume: Tensor, index_zyx: Tensor, mode: str = "bilinear") -> Tensor:
    """(C, z, y, x) sampled at voxel indices (3, Z, Y, X) given in Z, Y, X; zero outside. Returns (C, Z, Y, X)."""
    size = torch.tensor(volume.shape[1:], dtype=torch.float32, device=volume.device).view(3, 1, 1, 1)
    unit = (2 * index_zyx + 1) / size - 1
    grid = unit.flip(0).permute(1, 2, 3, 0)[None]
    return F.grid_sample(volume[None], grid, mode=mode, padding_mode="zeros", align_corners=False)[0]


def shift_along(volume: Tensor, shift_vox: Tensor, axis: int) -> Tensor:
    """Sample (C, Z, Y, X) at `index + shift_vox` along one axis (-3 to -1), linearly; ends repeated."""
    size = volume.shape[axis]
    shape = [1, 1, 1]
    shape[axis] = size
    at = torch.arange(size, device=volume.device, dtype=torch.float32).view(shape) + shift_vox
    at = at.clamp(0, size - 1.001)
    low = at.floor()
    fraction = at - low
    index = low.long().expand(volume.shape[1:])[None].expand_as(volume)
    return torch.lerp(volume.gather(axis, index), volume.gather(axis, index + 1), fraction)


def smoothstep(values: Tensor, low: float, high: float) -> Tensor:
    """0 below `low`, 1 above `high`, smooth between."""
    fraction = ((values - low) / (high - low)).clamp(0, 1)
    return fraction * fraction * (3 - 2 * fraction)
