"""The two views of eq. 2: random parts of a window at a random scale, with random intensities.

The paper's list (sections 2.4 and C.1.1): crop, flip, scale, noise, blur, brightness, contrast, colour jitter,
solarisation. An MRI or CT has no colour; its jitter is one of gamma and offset. Everything runs on batches on the
device, and a sample's view is a function of its own generator alone, whatever else is in the batch.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segsync.arrays import SizeZYX
from segsync_train.ssl.config import ViewsConfig

#: Standard deviations after which a Gaussian kernel is cut.
REACH = 3.0
#: Solarisation inverts what is above this fraction of the range (DINO).
SOLARISE_ABOVE = 0.5


class Views:
    """Makes one view of every window of a batch."""

    def __init__(self, config: ViewsConfig, patch_zyx: SizeZYX) -> None:
        self.config = config
        self.patch_zyx = patch_zyx

    def __call__(self, windows: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
        """Windows (B, C, Z, Y, X) on any device, one generator each → views (B, C, z, y, x), float32.

        A channel without any signal, one that the patient has not, stays zero.
        """
        config, count = self.config, windows.shape[:2]
        view = self._cut(windows.float(), rngs)
        present = view.ne(0).any(-1).any(-1).any(-1)
        view = _blur(view, _drawn(rngs, count, config.blur, config.blur_sigma), config.blur_sigma[1])

        def drawn(probability: float, limits: tuple[float, float], neutral: float = 0.0) -> Tensor:
            values = torch.from_numpy(_drawn(rngs, count, probability, limits, neutral))
            return values.to(view)[:, :, None, None, None]

        view = view * (1 + drawn(config.brightness, config.strength))
        mean = view.mean((2, 3, 4), keepdim=True)
        view = mean + (view - mean) * (1 + drawn(config.contrast, config.strength))
        view = _gamma(view, drawn(config.jitter, config.jitter_gamma, 1.0))
        view = view + drawn(config.jitter, (-config.jitter_offset, config.jitter_offset))
        view = _solarise(view, drawn(config.solarise, (1.0, 1.0)) > 0)
        view = _noise(view, drawn(config.noise, (0.0, config.noise_std)), rngs)
        return torch.where(present[:, :, None, None, None], view, 0.0)

    def _cut(self, windows: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
        """Crop, scale and flip in one interpolation."""
        size = np.asarray(windows.shape[2:], dtype=np.float64)
        theta = np.zeros((len(rngs), 3, 4))
        for matrix, rng in zip(theta, rngs, strict=True):
            zoom = math.exp(rng.uniform(*np.log(self.config.zoom)))
            fraction = np.minimum(1.0, np.asarray(self.patch_zyx) / zoom / size)
            middle = (1 - fraction) * rng.uniform(-1, 1, 3)
            draws = rng.random(3)
            flip = [axis in self.config.flip_axes and draws[axis] < self.config.flip for axis in range(3)]
            # torch counts the axes of a sampling grid from the last.
            matrix[:, :3] = np.diag((fraction * np.where(flip, -1.0, 1.0))[::-1])
            matrix[:, 3] = middle[::-1]
        shape = [len(rngs), windows.shape[1], *self.patch_zyx]
        grid = F.affine_grid(torch.from_numpy(theta).to(windows), shape, align_corners=False)
        return F.grid_sample(windows, grid, padding_mode="border", align_corners=False)


def _drawn(
    rngs: Sequence[np.random.Generator],
    count: Sequence[int],
    probability: float,
    limits: tuple[float, float],
    neutral: float = 0.0,
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """A value (B, C) for each channel: within `limits` with the probability, else neutral; always as many draws."""
    rows = []
    for rng in rngs:
        chosen, values = rng.random(count[1]) < probability, rng.uniform(*limits, count[1])
        rows.append(np.where(chosen, values, neutral))
    return np.asarray(rows)


def _blur(view: Tensor, sigmas: np.ndarray[tuple[int, ...], np.dtype[np.float64]], largest: float) -> Tensor:
    """A Gaussian of its own sigma (voxels) for every channel; sigma 0 leaves it as it is."""
    flat, chosen = view.flatten(0, 1), np.flatnonzero(sigmas)
    if not chosen.size:
        return view
    reach = math.ceil(REACH * largest)
    offsets = torch.arange(-reach, reach + 1, device=view.device, dtype=view.dtype)
    sigma = torch.from_numpy(sigmas.ravel()[chosen]).to(view)[:, None]
    kernels = (-0.5 * (offsets / sigma).square()).softmax(-1)
    index = torch.from_numpy(chosen).to(view.device)
    blurred = flat[index][None]
    for axis in range(3):
        shape, padding = [1, 1, 1], [0] * 6
        shape[axis], padding[4 - 2 * axis], padding[5 - 2 * axis] = len(offsets), reach, reach
        padded = F.pad(blurred, padding, mode="replicate")
        blurred = F.conv3d(padded, kernels.reshape(-1, 1, *shape), groups=len(chosen))
    return flat.index_copy(0, index, blurred[0]).reshape(view.shape)


def _range(view: Tensor) -> tuple[Tensor, Tensor]:
    return view.amin((2, 3, 4), keepdim=True), view.amax((2, 3, 4), keepdim=True)


def _gamma(view: Tensor, gamma: Tensor) -> Tensor:
    low, high = _range(view)
    width = (high - low).clamp(min=1e-6)
    changed = ((view - low) / width).pow(gamma) * width + low
    return torch.where(gamma == 1, view, changed)


def _solarise(view: Tensor, chosen: Tensor) -> Tensor:
    low, high = _range(view)
    bright = view > low + SOLARISE_ABOVE * (high - low)
    return torch.where(chosen & bright, low + high - view, view)


def _noise(view: Tensor, deviations: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
    noisy = []
    for sample, deviation, rng in zip(view, deviations, rngs, strict=True):
        generator = torch.Generator(view.device).manual_seed(int(rng.integers(2**62)))
        normal = torch.randn(sample.shape, generator=generator, device=view.device, dtype=view.dtype)
        noisy.append(sample + deviation * normal)
    return torch.stack(noisy)
