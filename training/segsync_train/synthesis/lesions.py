"""Where lesions are: real masks brought into a brain, changed and broken, and those that are drawn from nothing.

Every function returns a fraction (Z, Y, X) in 0 to 1 on the scene's grid. What a lesion looks like is the contrast's
part.
"""

import math

import numpy as np
import torch
from torch import Tensor

from segsync_train.config.ranges import Range
from segsync_train.config.synthesis import LesionConfig
from segsync_train.synthesis.fields import Draw, gaussian, sample, smoothstep
from segsync_train.synthesis.masks import MaskLibrary
from segsync_train.synthesis.scene import Scene, rotation_zyx
from segsync_train.synthesis.tissues import PARENCHYMA, Tissue

#: Elastic bending can move a lesion by this much against its affine place.
BEND_MM = 16.0


def infarcts(draw: Draw, scene: Scene, library: MaskLibrary, config: LesionConfig) -> list[Tensor]:
    """The acute lesions of one brain: none, infarcts of real shapes, scattered emboli, or both."""
    if draw.chance(config.none):
        return []
    kind = draw.choice(config.kinds)
    found = []
    if kind in (0, 2):
        found += [real_shape(draw, scene, library, config) for _ in range(1 + draw.choice(config.several))]
    if kind in (1, 2):
        found.append(emboli(draw, scene, config))
    return found


def real_shape(draw: Draw, scene: Scene, library: MaskLibrary, config: LesionConfig) -> Tensor:
    """One mask of the library, mirrored, moved, rotated, scaled, eroded or grown, perhaps in pieces or cortical."""
    fraction = _laid_in(draw, scene, library, draw.integer(0, len(library) - 1), config)
    region = _region(fraction > 0)
    result = torch.zeros_like(fraction)
    if region is None:
        return result
    soft = gaussian(fraction[region], draw.uniform((0.3, 1.2)))
    size = soft.shape
    rough = draw.uniform((0.0, 0.5)) * draw.smooth_noise(size, draw.uniform((1.5, 6.0)))[0]
    level = draw.uniform((0.3, 0.6))
    # Noise acts where the lesion is; in the middle of a large one it must exceed 1 - level to make a hole.
    soft = soft + rough * smoothstep(soft, 0.02, 0.4)
    soft = smoothstep(soft, level - 0.12, level + 0.12)
    if draw.chance(config.pieces):
        islands = draw.smooth_noise(size, draw.uniform((2.0, 6.0)))[0] + draw.uniform((-0.8, 0.6))
        soft = soft * smoothstep(islands, -0.15, 0.15)
    if draw.chance(config.cortical):
        cortex = gaussian(scene.tissues[Tissue.CORTEX][region], 0.4)
        soft = soft * smoothstep(cortex, 0.2, 0.5)
    result[region] = soft
    return result


def emboli(draw: Draw, scene: Scene, config: LesionConfig) -> Tensor:
    """Small round or stretched lesions, from one to many: anywhere, in the cortex, or about one place."""
    tissues = scene.tissues
    cortex = tissues[Tissue.CORTEX] + tissues[Tissue.CEREBELLAR_CORTEX]
    weights = scene.parenchyma.clamp(0, 1) ** 4
    if draw.chance(0.4):
        weights = weights * (0.05 + cortex.clamp(0, 1))
    if draw.chance(0.5):
        index = pick(draw, weights, 1)[0]
        reach = draw.uniform((10.0, 35.0)) / scene.spacing_mm
        weights = weights * _ball(scene.size_zyx, index, reach)
    count = round(draw.log_uniform((float(config.emboli[0]), float(config.emboli[1]) + 0.49)))
    middle = draw.log_uniform(config.embolus_mm)
    radii = [
        min(max(middle * math.exp(draw.normal(0.0, 0.35)), config.embolus_mm[0]), 1.5 * config.embolus_mm[1])
        for _ in range(count)
    ]
    return _blobs(draw, scene, pick(draw, weights, count), radii)


def spots(draw: Draw, scene: Scene, weights: Tensor, count: int, radius_mm: Range) -> Tensor:
    """`count` small round things where `weights` (Z, Y, X) are high."""
    radii = [draw.log_uniform(radius_mm) for _ in range(count)]
    return _blobs(draw, scene, pick(draw, weights, count), radii)


def white_matter_hyperintensities(draw: Draw, scene: Scene, reach_mm: Range = (1.5, 14.0)) -> Tensor:
    """Caps and bands along the lateral ventricles, and patches in the deep white matter."""
    white = scene.tissues[Tissue.WHITE]
    reach = draw.log_uniform(reach_mm)
    rough = draw.smooth_noise(scene.size_zyx, draw.uniform((3.0, 9.0)))[0]
    band = smoothstep(reach * (1 + 0.6 * rough) - scene.ventricle_mm, -1.0, 2.0)
    patches = draw.smooth_noise(scene.size_zyx, draw.uniform((1.5, 5.0)))[0]
    deep = smoothstep(patches - draw.uniform((1.3, 2.6)) - 0.03 * (scene.ventricle_mm - 15).clamp(min=0), 0.0, 0.4)
    inner = gaussian(white, 1.0)
    return (torch.maximum(band, deep) * smoothstep(inner, 0.55, 0.95)).clamp(0, 1)


def choroid_plexus(draw: Draw, scene: Scene) -> Tensor:
    """Tufts of plexus within the ventricles."""
    rough = draw.smooth_noise(scene.size_zyx, draw.uniform((2.0, 4.0)))[0]
    return smoothstep(rough, 0.9, 1.4) * smoothstep(scene.tissues[Tissue.VENTRICLE], 0.4, 0.9)


def _laid_in(draw: Draw, scene: Scene, library: MaskLibrary, number: int, config: LesionConfig) -> Tensor:
    """The mask on the scene's grid: through MNI space, moved about its own middle."""
    mask = library.mask(number)
    middle = library.centre_mm(number)
    mirror = np.diag([1.0, 1.0, -1.0 if draw.chance(0.5) else 1.0])
    limit = config.rotation_degrees
    rotation = rotation_zyx(
        (draw.uniform((-limit, limit)), draw.uniform((-limit, limit)), draw.uniform((-limit, limit)))
    )
    common = draw.uniform(config.scale)
    size = common * np.array([draw.uniform((0.9, 1.1)) for _ in range(3)])
    shift = np.array([draw.uniform((-config.shift_mm, config.shift_mm)) for _ in range(3)])
    # MNI position p of the scene -> voxel of the mask's box.
    linear = np.diag(1 / (size * library.spacing_mm)) @ rotation @ mirror
    target = mirror @ middle + shift
    first = library.origins_mm[number]
    offset = (middle - first) / library.spacing_mm - linear @ target

    result = torch.zeros(scene.size_zyx, device=mask.device)
    corners = np.array(np.meshgrid(*([-1.0, 1.0],) * 3)).reshape(3, -1).T
    box = np.linalg.solve(linear, (corners * np.array(mask.shape[1:]) / 2).T)
    to_index = np.linalg.inv(scene.standard_from_index[:, :3])
    centre = to_index @ (target - scene.standard_from_index[:, 3])
    reach = np.abs(to_index @ box).max(1) + BEND_MM / scene.spacing_mm
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.minimum(np.ceil(centre + reach) + 1, scene.size_zyx).astype(int)
    if (high <= low).any():
        return result
    region = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    standard = scene.standard_mm[(slice(None), *region)]
    matrix = torch.tensor(linear, dtype=torch.float32, device=mask.device)
    at = (matrix @ standard.flatten(1)).view_as(standard)
    at = at + torch.tensor(offset, dtype=torch.float32, device=mask.device).view(3, 1, 1, 1)
    bend = draw.uniform((0.0, 2.0)) / library.spacing_mm
    at = at + bend * draw.smooth_noise(standard.shape[1:], draw.uniform((4.0, 10.0)), channels=3)
    result[region] = sample(mask, at)[0]
    return result


def _region(inside: Tensor) -> tuple[slice, slice, slice] | None:
    """The box around what is true, two voxels wider; None where nothing is."""
    ends = []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        rows = inside.amax(others[1]).amax(others[0]).nonzero()
        if len(rows) == 0:
            return None
        ends.append(slice(max(int(rows[0]) - 2, 0), int(rows[-1]) + 3))
    return ends[0], ends[1], ends[2]


def pick(draw: Draw, weights: Tensor, count: int) -> Tensor:
    """(count, 3) voxel indices, drawn in proportion to the weights; (0, 3) where all weights are zero."""
    total = weights.flatten().cumsum(0, dtype=torch.float64)
    if float(total[-1]) <= 0:
        return torch.zeros(0, 3, dtype=torch.long, device=weights.device)
    where = torch.tensor(draw.scalars.random(count), device=weights.device) * total[-1]
    flat = torch.searchsorted(total, where).clamp(max=len(total) - 1)
    return torch.stack(torch.unravel_index(flat, weights.shape), dim=1)


def _ball(size_zyx: tuple[int, int, int], centre: Tensor, reach: float) -> Tensor:
    """Gaussian weights about one voxel."""
    parts = []
    for axis, side in enumerate(size_zyx):
        at = torch.arange(side, device=centre.device) - centre[axis]
        shape = [1, 1, 1]
        shape[axis] = side
        parts.append(torch.exp(-0.5 * (at / reach) ** 2).view(shape))
    return parts[0] * parts[1] * parts[2]


def _blobs(draw: Draw, scene: Scene, centres: Tensor, radii_mm: list[float]) -> Tensor:
    """Ellipsoids at voxel indices (N, 3), laid over one another by their maximum."""
    result = torch.zeros(scene.size_zyx, device=centres.device)
    if len(centres) == 0:
        return result
    count = len(centres)
    reach = max(1, math.ceil(1.6 * max(radii_mm) / scene.spacing_mm))
    line = torch.arange(-reach, reach + 1, device=centres.device)
    offsets = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).view(-1, 3)
    rotations = np.stack([rotation_zyx(tuple(draw.scalars.uniform(0, 180, 3))) for _ in range(count)])
    stretch = np.exp(draw.scalars.normal(0.0, 0.25, (count, 3)))
    scale = scene.spacing_mm / (np.array(radii_mm)[:count, None] * stretch)
    frames = torch.tensor(scale[:, :, None] * rotations, dtype=torch.float32, device=centres.device)
    inner = torch.einsum("nij,kj->nki", frames, offsets.float()).norm(dim=2)
    # Half a voxel of softness: what is smaller than a voxel fills its voxel in part, but is never lost.
    soft = torch.tensor(scene.spacing_mm / np.array(radii_mm)[:count], dtype=torch.float32, device=centres.device)
    fraction = ((1 - inner) / soft[:, None].clamp(min=0.2) + 0.5).clamp(0, 1)
    where = centres[:, None] + offsets[None]
    limits = torch.tensor(scene.size_zyx, device=centres.device)
    valid = ((where >= 0) & (where < limits)).all(dim=2)
    strides = torch.tensor([scene.size_zyx[1] * scene.size_zyx[2], scene.size_zyx[2], 1], device=centres.device)
    flat = (where * strides).sum(2)[valid]
    return result.view(-1).scatter_reduce(0, flat, fraction[valid], reduce="amax").view_as(result)


def outlined(fraction: Tensor, scene: Scene) -> Tensor:
    """What a reader outlines of a lesion: its brain tissue, and the narrow sulci within, but no ventricle."""
    brain = scene.tissues[PARENCHYMA].sum(0)
    return fraction * smoothstep(brain, 0.12, 0.4)
