"""The large arteries of the head as centre-lines in standard space, and what flows in them past a clot."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segsync_train.synthesis.fields import Draw
from segsync_train.synthesis.ischaemia import Occlusion
from segsync_train.synthesis.scene import Scene

#: Arteries by the branch of `territories` they feed: MNI points (|x|, y, z) in mm, RAS, from the heart on; radius, mm.
ARTERIES: dict[str, tuple[tuple[tuple[float, float, float], ...], float]] = {
    "carotid": (((26, -22, -62), (25, -18, -46), (20, -14, -38), (12, -4, -36), (13, 6, -26), (11, 2, -16)), 2.2),
    "middle": (((11, 2, -16), (22, 4, -18), (32, 4, -16), (40, 2, -12)), 1.5),
    "superior": (((40, 2, -12), (41, 10, -2), (40, 16, 10), (47, 8, 22), (50, 0, 36)), 1.1),
    "inferior": (((40, 2, -12), (42, -8, -4), (44, -22, 6), (50, -36, 14), (55, -50, 22)), 1.1),
    "anterior": (((11, 2, -16), (3, 12, -14), (3, 26, -2), (3, 36, 14), (4, 26, 32), (4, 8, 44), (5, -20, 56)), 1.0),
    "cerebellar": (((10, -36, -66), (4, -26, -48), (0, -22, -42)), 1.6),
    "basilar": (((0, -22, -42), (0, -17, -30), (0, -16, -20)), 1.6),
    "posterior": (((0, -16, -20), (12, -16, -16), (20, -28, -8), (18, -48, 0), (12, -72, 6)), 1.0),
}
#: Where the contrast medium comes from.
BEFORE = {"middle": "carotid", "superior": "middle", "inferior": "middle"}
#: Distance between the points that a vessel is drawn with, mm.
STEP_MM = 0.7


def arteries(draw: Draw, scene: Scene, occlusions: list[Occlusion]) -> tuple[Tensor, Tensor, Tensor]:
    """Fractions (Z, Y, X): of the arteries' lumen, of the contrast medium in it, and of fresh clot."""
    lumen = torch.zeros(scene.size_zyx, device=draw.device)
    filled, clot = torch.zeros_like(lumen), torch.zeros_like(lumen)
    width = draw.uniform((0.8, 1.3))
    for side in (0, 1):
        closed = {_closing(draw, occlusion) for occlusion in occlusions if occlusion.side == side}
        collaterals = draw.uniform((0.1, 0.9))
        for name, (points, radius) in ARTERIES.items():
            if side and not any(x for x, _, _ in points):
                continue  # in the midline there is one for both sides
            at = _centre_line(draw, points, side)
            area = np.pi * (radius * width * np.exp(draw.normal(0.0, 0.12))) ** 2
            volume = np.full(len(at), area * STEP_MM)
            medium = np.full(len(at), collaterals if closed.intersection(_upstream(name)) else 1.0)
            if name in closed:
                start = draw.integer(0, len(at) // 2)
                medium[start:] = collaterals
                length = draw.integer(4, 20)
                medium[start : start + length] = 0.0
                _lay(clot, scene, at[start : start + length], volume[start : start + length])
            _lay(lumen, scene, at, volume)
            _lay(filled, scene, at, volume * medium)
    return lumen.clamp(max=1), filled.clamp(max=1), clot.clamp(max=1)


def _upstream(name: str) -> Iterator[str]:
    """The arteries through which the contrast medium comes to one."""
    while name in BEFORE:
        name = BEFORE[name]
        yield name


def _closing(draw: Draw, occlusion: Occlusion) -> str:
    """The artery in which the clot of an occlusion lies."""
    if occlusion.whole or occlusion.branch == "deep":
        return "carotid" if draw.chance(0.15) else "middle"
    return occlusion.branch


def _centre_line(draw: Draw, points: tuple[tuple[float, float, float], ...], side: int) -> npt.NDArray[np.float64]:
    """(N, 3) MNI positions (LPS, ZYX), `STEP_MM` apart, a little other in every patient."""
    x, y, z = np.array(points, dtype=float).T
    line = np.stack([z, -y, x if side else -x], axis=1)
    line[1:-1] += draw.scalars.normal(0.0, 1.5, line[1:-1].shape)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.arange(0.0, along[-1], STEP_MM)
    return np.stack([np.interp(at, along, line[:, axis]) for axis in range(3)], axis=1)


def _lay(fraction: Tensor, scene: Scene, at_mm: npt.NDArray[np.float64], volume_mm3: npt.NDArray[np.float64]) -> None:
    """Add small volumes to the eight voxels around each position: a vessel thinner than a voxel keeps its volume."""
    affine = scene.standard_from_index
    index = np.linalg.solve(affine[:, :3], (at_mm - affine[:, 3]).T).T
    low = np.floor(index).astype(int)
    part = index - low
    for corner in np.ndindex(2, 2, 2):
        where = low + corner
        weight = np.prod(np.where(corner, part, 1 - part), axis=1) * volume_mm3 / scene.spacing_mm**3
        inside = ((where >= 0) & (where < scene.size_zyx)).all(1)
        flat = torch.tensor(np.ravel_multi_index(tuple(where[inside].T), scene.size_zyx), device=fraction.device)
        fraction.view(-1).index_add_(0, flat, torch.tensor(weight[inside], dtype=torch.float32, device=fraction.device))
