"""Which part of the brain hangs on which artery, and what is cut off when one is closed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segsync_train.synthesis.fields import Draw, gaussian, smoothstep
from segsync_train.synthesis.scene import Scene

#: Branches and the middles of the parts they feed: MNI (|x|, y, z) in mm, RAS, on either side. Laid out after the maps
#: of Tatu et al. (1998, 2012) and Liu et al. (2023, doi:10.1038/s41597-022-01923-0).
BRANCHES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "superior": ((48, 28, 8), (40, 40, 18), (46, 10, 32), (36, 12, 50), (50, -12, 36), (26, 20, 26)),
    "inferior": ((56, -20, -8), (50, 2, -26), (56, -42, 10), (50, -50, 34), (46, -64, 18), (46, -34, 48)),
    "deep": ((26, 4, 4), (30, -14, 6), (38, 4, -2), (26, -8, 24)),
    "anterior": ((8, 48, 8), (14, 32, 32), (8, 24, 46), (8, -8, 60), (10, -34, 62), (10, 58, 26), (10, 40, -16)),
    "posterior": (
        (10, -82, 4),
        (24, -84, 14),
        (26, -50, -10),
        (12, -58, 8),
        (30, -28, -18),
        (12, -20, 6),
        (12, -70, 32),
    ),
    "cerebellar": ((24, -62, -40), (14, -54, -22), (38, -58, -32)),
    "basilar": ((4, -28, -34), (4, -22, -12)),
}
NAMES = tuple(BRANCHES)
#: Branches of the middle cerebral artery, and of the internal carotid.
MIDDLE = ("superior", "inferior", "deep")
CAROTID = (*MIDDLE, "anterior")
_PARTS = [(number, part) for number, name in enumerate(NAMES) for part in BRANCHES[name]]
#: Spacing at which territories are laid out, mm: their borders are soft.
COARSE_MM = 5.0


@dataclass(frozen=True)
class Territories:
    """The parts of the brain that arteries feed.

    Attributes:
        parts: (z, y, x) int64 on a coarse grid over the scene, the number of the part; the second half lies at x > 0.
        size_zyx: Voxels of the scene.
    """

    parts: Tensor
    size_zyx: tuple[int, int, int]

    def spread(self, values: Tensor, sigma_mm: float) -> Tensor:
        """(Z, Y, X): a value for each of the `2 * len(_PARTS)` parts, with soft borders."""
        coarse = gaussian(values[self.parts], sigma_mm / COARSE_MM)
        return F.interpolate(coarse[None, None], size=self.size_zyx, mode="trilinear", align_corners=True)[0, 0]

    def fractions(self, volume: Tensor) -> Tensor:
        """How much of `volume` (Z, Y, X) lies in each part, relative to the part."""
        z, y, x = self.parts.shape
        coarse = F.adaptive_avg_pool3d(volume[None, None], (z, y, x))[0, 0]
        flat, count = self.parts.flatten(), 2 * len(_PARTS)
        total = torch.zeros(count, device=volume.device).scatter_add(0, flat, coarse.flatten())
        return total / torch.bincount(flat, minlength=count).clamp(min=1)


def lay_out(draw: Draw, scene: Scene) -> Territories:
    """The territories of one patient: the nearest part's, with borders that differ from patient to patient."""
    coarse = [max(2, round(side * scene.spacing_mm / COARSE_MM)) for side in scene.size_zyx]
    at = F.interpolate(scene.standard_mm[None], size=coarse, mode="trilinear", align_corners=True)[0]
    at = at + draw.uniform((2.0, 6.0)) * draw.smooth_noise(coarse, draw.uniform((2.0, 6.0)), channels=3)
    middles = torch.tensor([[z, -y, x] for _, (x, y, z) in _PARTS], dtype=torch.float32, device=draw.device)
    middles = torch.cat([middles * middles.new_tensor([1, 1, -1]), middles])
    middles = middles + draw.uniform((0.0, 5.0)) * draw.noise(middles.shape)
    nearest = torch.cdist(at.flatten(1).T, middles).argmin(1).view(coarse)
    # Whatever the bending of the border, no artery of the hemispheres feeds the other side.
    nearest = torch.where(at[0] > -20, nearest % len(_PARTS) + len(_PARTS) * (at[2] > 0), nearest)
    return Territories(nearest, scene.size_zyx)


def fed_by(branches: Sequence[str], side: int, device: torch.device) -> Tensor:
    """(2 * parts,) bool: the parts of these branches; side 0 is x < 0 (LPS: the patient's right), 1 is x > 0."""
    own = torch.tensor([NAMES[number] in branches for number, _ in _PARTS], device=device)
    none = torch.zeros_like(own)
    return torch.cat([none, own] if side else [own, none])


def main_branch(fractions: Tensor) -> tuple[str, int]:
    """The branch and the side in which most of something lies."""
    number = int(fractions.argmax())
    return NAMES[_PARTS[number % len(_PARTS)][0]], int(number >= len(_PARTS))


def grown(fraction: Tensor, scene: Scene, reach_mm: float) -> Tensor:
    """A fraction (Z, Y, X) and its surroundings, falling off within about `reach_mm`."""
    return smoothstep(gaussian(fraction, reach_mm / scene.spacing_mm), 0.02, 0.35)
