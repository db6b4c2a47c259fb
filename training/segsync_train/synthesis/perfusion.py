"""CT and CT perfusion (`isles24`, `brain-ct`): flow, blood volume, transit time, delay, the infarct that comes of it.

Flow and volume are made by tissue and ischaemia, disturbed by scanner and software, and the transit time is computed of
the two, as software does (central volume principle). The images are in register but for a small motion between series.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from segsync_train.config.synthesis import AcquisitionConfig, SynthesisConfig
from segsync_train.synthesis import lesions, scanner, tomography
from segsync_train.synthesis.anatomy import Anatomies
from segsync_train.synthesis.fields import Draw, gaussian
from segsync_train.synthesis.ischaemia import Ischaemia, ischaemia
from segsync_train.synthesis.scene import Scene
from segsync_train.synthesis.tissues import Tissue
from segsync_train.synthesis.tomography import Disease
from segsync_train.synthesis.vessels import arteries

#: By tissue: flow in ml/100 g/min, transit time in s, delay in s (after Wintermark 2005 and Campbell 2012, rounded).
PARAMETERS: dict[Tissue, tuple[float, float, float]] = {
    Tissue.CORTEX: (58.0, 4.2, 1.3),
    Tissue.WHITE: (23.0, 5.2, 2.2),
    Tissue.CEREBELLAR_CORTEX: (58.0, 4.2, 1.7),
    Tissue.CEREBELLAR_WHITE: (28.0, 5.0, 2.2),
    Tissue.DEEP_GREY: (55.0, 4.3, 1.2),
    Tissue.IRON_GREY: (45.0, 4.5, 1.4),
    Tissue.BRAINSTEM: (36.0, 4.8, 1.8),
    Tissue.VENTRICLE: (1.5, 7.0, 4.0),
    Tissue.OUTER_CSF: (10.0, 6.0, 2.5),
    Tissue.ARTERY: (180.0, 4.0, 0.3),
    Tissue.VEIN: (160.0, 6.0, 4.0),
    Tissue.BONE: (2.0, 6.0, 4.0),
    Tissue.MARROW: (4.0, 6.0, 4.0),
    Tissue.SOFT: (8.0, 7.0, 4.0),
    Tissue.SKIN: (4.0, 7.0, 4.0),
    Tissue.MUCOSA: (25.0, 6.0, 3.0),
    Tissue.EYE: (6.0, 6.0, 3.0),
}
#: CT slices are axial and leave no gap.
SLICES = {"slice_axis": (1.0, 0.0, 0.0), "gap": (0.0, 0.0)}
#: Thickness of the slices, mm.
PLAIN_MM, ANGIOGRAPHY_MM = (1.0, 6.0), (0.8, 4.0)


@dataclass(frozen=True)
class Circulation:
    """Maps (Z, Y, X): flow in ml/100 g/min, volume in ml/100 g, delay of the residue function's peak in s."""

    flow: Tensor
    volume: Tensor
    delay: Tensor


def render(
    draw: Draw, scene: Scene, anatomies: Anatomies, config: SynthesisConfig
) -> tuple[Tensor, Tensor, tuple[bool, ...]]:
    """Images (6, Z, Y, X): NCCT, CTA in HU, Tmax in s, CBF, CBV, MTT; target (Z, Y, X) uint8; what is present."""
    chosen = config.acquisition.model_copy(update=SLICES)
    head = _head(draw, scene, anatomies, config)
    inside = scanner.within_skull(draw, scene)
    plain = tomography.acquire(draw, scene, head.plain, inside, chosen, PLAIN_MM)
    bright = tomography.enhanced(draw, scene, head.plain, head.filled, head.blood.volume, head.stroke)
    both = _in_place(draw, torch.stack([bright, inside]), scene, chosen)
    angiography = tomography.acquire(draw, scene, both[0], both[1], chosen, ANGIOGRAPHY_MM)
    maps = _maps(draw, scene, head.blood, inside, head.stroke, chosen)
    infarct = lesions.outlined(_in_place(draw, head.stroke.infarct[None], scene, chosen)[0], scene)
    target = infarct > draw.uniform((0.35, 0.5))
    present = _present(draw, chosen.missing)
    images = torch.cat([plain[None], angiography[None], maps])
    images = images * torch.tensor(present, device=draw.device).view(-1, 1, 1, 1)
    return images, target.to(torch.uint8), present


def render_brain(
    draw: Draw, scene: Scene, anatomies: Anatomies, config: SynthesisConfig
) -> tuple[Tensor, Tensor, tuple[bool, ...]]:
    """Image (1, Z, Y, X) in HU, a CT without contrast medium or an angiography; the target is the brain.

    Some have fresh blood or lie on a headrest, which the images that lesions are learned from have not.
    """
    chosen = config.acquisition.model_copy(update=SLICES)
    head = _head(draw, scene, anatomies, config)
    hu, thickness = head.plain, PLAIN_MM
    if draw.chance(0.4):
        hu = tomography.enhanced(draw, scene, hu, head.filled, head.blood.volume, head.stroke)
        thickness = ANGIOGRAPHY_MM
    if draw.chance(0.25):
        hu = hu + tomography.haematoma(draw, scene, anatomies, config.lesions)
    if not scene.skull_stripped and draw.chance(0.7):
        hu = hu + tomography.headrest(draw, scene)
    image = tomography.acquire(draw, scene, hu, scanner.within_skull(draw, scene), chosen, thickness)
    # The outline is smooth: slices and partial volume move it by less than a voxel of the coarse grid.
    return image[None], (scene.brain >= 0.5).to(torch.uint8), (True,)


@dataclass(frozen=True)
class _Head:
    """One patient before any scanner: stroke and circulation; filled: (Z, Y, X) open arteries; plain: HU."""

    stroke: Ischaemia
    blood: Circulation
    filled: Tensor
    plain: Tensor


def _head(draw: Draw, scene: Scene, anatomies: Anatomies, config: SynthesisConfig) -> _Head:
    stroke = ischaemia(draw, scene, anatomies.acute, config.lesions)
    old = tomography.disease(draw, scene, anatomies, config.lesions)
    # What becomes an infarct now was not one before.
    old = Disease(old.cavity * (1 - stroke.infarct), old.white_matter)
    lumen, filled, clot = arteries(draw, scene, stroke.occlusions)
    blood = circulation(draw, scene, stroke, old, filled)
    hu = tomography.attenuation(draw, scene, stroke, old, clot)
    hu = hu + 12.0 * lumen * (scene.tissues[Tissue.OUTER_CSF] + scene.parenchyma).clamp(0, 1)
    return _Head(stroke, blood, filled, hu)


def _present(draw: Draw, missing: float) -> tuple[bool, ...]:
    """CT always; the angiography or a map may be missing, or all maps where the injection failed."""
    angiography = not draw.chance(missing)
    failed = draw.chance(missing / 4)
    return (True, angiography, *(not failed and not draw.chance(missing / 3) for _ in range(4)))


def _in_place(draw: Draw, volume: Tensor, scene: Scene, config: AcquisitionConfig) -> Tensor:
    """(C, Z, Y, X) as registration leaves it: mostly where it was, at times a little off."""
    if draw.chance(0.5):
        return volume
    return scanner.moved(draw, volume, scene, config)


def circulation(draw: Draw, scene: Scene, stroke: Ischaemia, old: Disease, filled: Tensor) -> Circulation:
    """How blood flows through one patient's head; filled: (Z, Y, X) the fraction of large arteries that are open."""
    flow, volume, late = [], [], []
    common, slower = draw.normal(0.0, 0.15), draw.normal(0.0, 0.1)
    for tissue in list(Tissue)[: len(scene.tissues)]:
        f, t, d = PARAMETERS[tissue]
        spread = 0.08 if tissue < Tissue.VENTRICLE else 0.4
        f *= math.exp(common + draw.normal(0.0, spread))
        t *= math.exp(slower + draw.normal(0.0, spread / 2))
        flow.append(f)
        volume.append(f * t / 60)
        late.append(d * f)
    table = torch.tensor([flow, volume, late], device=draw.device)
    mixed = (table @ scene.tissues.flatten(1)).view(3, *scene.size_zyx)
    size, kept = scene.size_zyx, 1 - old.cavity
    region = torch.exp(draw.uniform((0.0, 0.15)) * draw.smooth_noise(size, draw.uniform((4.0, 12.0)))[0])
    worn = 1 - draw.uniform((0.1, 0.6)) * old.white_matter
    # Autoregulation keeps flow up behind a narrow artery, with wider vessels.
    weary = torch.exp(-draw.uniform((0.0, 0.06)) * stroke.slow)
    less_flow, less_volume = _loss(draw, stroke)
    flows = mixed[0] * region * worn * weary * less_flow * (1 - 0.9 * old.cavity)
    volumes = mixed[1] * region * worn * torch.sqrt(2 - weary) * less_volume * (1 - 0.85 * old.cavity)
    vessel = filled * draw.uniform((0.2, 1.0))
    flows, volumes = flows + 200.0 * vessel, volumes + 12.0 * vessel
    delay = mixed[2] / mixed[0].clamp(min=1e-3) * draw.uniform((0.4, 1.3))
    delay = delay + draw.uniform((0.0, 0.5)) * draw.smooth_noise(size, draw.uniform((6.0, 16.0)))[0] + stroke.slow
    delay = delay + old.cavity * draw.uniform((0.0, 5.0)) + old.white_matter * draw.uniform((0.0, 1.5))
    delay = delay + kept * _lateness(draw, stroke)
    return Circulation(flows.clamp(min=0), volumes.clamp(min=0), delay.clamp(min=0))


def _loss(draw: Draw, stroke: Ischaemia) -> tuple[Tensor, Tensor]:
    """Factors (Z, Y, X) on flow and volume: below 0.3 of the normal flow tissue dies, above it lives for a while."""
    size = stroke.core.shape
    rough = draw.uniform((0.0, 0.15)) * draw.smooth_noise(size, draw.uniform((2.0, 5.0)))[0]
    flow = 1 - draw.uniform((0.2, 0.5)) * stroke.penumbra * (1 + rough)
    volume = 1 + draw.uniform((-0.15, 0.35)) * stroke.penumbra * (1 + rough)
    core = gaussian(stroke.core, 0.4)
    # Flow falls further than volume: what is left passes slowly.
    left = draw.uniform((0.04, 0.25))
    flow = torch.lerp(flow, left * (1 + rough), core)
    volume = torch.lerp(volume, min(0.6, left * draw.uniform((1.3, 4.0))) * (1 + rough), core)
    again = draw.uniform((-0.1, 0.8)) * stroke.flooded
    return (flow + again).clamp(min=0.02), (volume + again).clamp(min=0.02)


def _lateness(draw: Draw, stroke: Ischaemia) -> Tensor:
    """Delay in s: beyond 6 s in most of the penumbra, longest in the core."""
    size = stroke.core.shape
    rough = 1 + draw.uniform((0.0, 0.2)) * draw.smooth_noise(size, draw.uniform((3.0, 8.0)))[0]
    within = draw.uniform((5.5, 10.0)) * stroke.penumbra**0.8
    return (within * rough).clamp(min=0) + draw.uniform((1.0, 8.0)) * gaussian(stroke.core, 0.8)


def mean_transit_time(flow: Tensor, volume: Tensor) -> Tensor:
    """MTT in s from CBF (ml/100 g/min) and CBV (ml/100 g), by the central volume principle; 0 without flow."""
    return torch.where(flow > 0.1, 60 * volume / flow.clamp(min=0.1), torch.zeros_like(flow))


def _maps(
    draw: Draw, scene: Scene, blood: Circulation, inside: Tensor, stroke: Ischaemia, config: AcquisitionConfig
) -> Tensor:
    """(4, Z, Y, X): Tmax, CBF, CBV and MTT as software writes them: thick smooth slices, noise, masks, limits."""
    # A voxel's delay is that of the blood that flows in it.
    weight = blood.flow + 2.0
    volumes = _in_place(
        draw, torch.stack([blood.flow, blood.volume, blood.delay * weight, weight, inside]), scene, config
    )
    slices = scanner.draw_slices(draw, scene, config, (5.0, 10.0))
    sigma = draw.uniform((3.0, 8.0)) / scanner.FWHM / scene.spacing_mm
    volumes = gaussian(slices.acquire(volumes), (0.0, sigma, sigma))
    noise = _noise(draw, volumes[0].shape, draw.uniform((0.6, 1.6)))
    level = draw.log_uniform((0.03, 0.2))
    flow = (volumes[0] * (1 + level * noise[0]) + 15 * level * noise[1]).clamp(min=0)
    volume = (volumes[1] * (1 + level * noise[0]) + 1.0 * level * noise[2]).clamp(min=0)
    # A curve without a peak peaks anywhere: fluid, old infarcts and the core are noisy.
    delay = volumes[2] / volumes[3].clamp(min=1e-3)
    unsure = draw.uniform((0.15, 0.7)) * (1 + draw.uniform((4.0, 25.0)) / (volumes[0] + 3.0))
    tmax = (delay + unsure * noise[3]).clamp(min=0)
    if draw.chance(0.25):
        tmax = tmax.round()
    transit = mean_transit_time(flow, volume)
    transit = transit * (1 + draw.uniform((0.0, 0.1)) * noise[2]).clamp(0.5, 1.5)
    kept = scanner.brain_mask(draw, volumes[4], scene.spacing_mm)
    if draw.chance(0.5):
        kept = kept * (volumes[0] > draw.uniform((2.0, 6.0)))
    if draw.chance(0.35):
        kept = kept * (volumes[1] < draw.uniform((6.0, 12.0)))
    # Programs differ in scale and in the largest value they write.
    scale = [math.exp(draw.normal(0.0, std)) for std in (0.08, 0.2, 0.2, 0.12)]
    limit = [draw.log_uniform(ends) for ends in ((12.0, 40.0), (100.0, 500.0), (8.0, 40.0), (12.0, 40.0))]
    maps = torch.stack([tmax, flow, volume, transit]) * tmax.new_tensor(scale).view(4, 1, 1, 1)
    maps = torch.minimum(maps, tmax.new_tensor(limit).view(4, 1, 1, 1)) * kept
    return slices.regrid(maps) * _covered(draw, scene, stroke)


def _noise(draw: Draw, size: torch.Size, smooth_vox: float) -> Tensor:
    """(4, Z, Y, X) of unit variance, smooth within a slice."""
    noise = gaussian(draw.noise((4, *size)), (0.0, smooth_vox, smooth_vox))
    return noise / noise.std()


def _covered(draw: Draw, scene: Scene, stroke: Ischaemia) -> Tensor:
    """(Z, 1, 1), 0 or 1: a scanner's rows cover the brain or a slab of it, laid through what is suspected."""
    at = torch.arange(scene.size_zyx[0], device=draw.device, dtype=torch.float32) * scene.spacing_mm
    if draw.chance(0.6):
        return torch.ones_like(at).view(-1, 1, 1)
    seen = (stroke.infarct + 0.3 * stroke.penumbra if stroke.occlusions else scene.parenchyma).sum((1, 2))
    middle = float((seen * at).sum() / seen.sum().clamp(min=1e-3)) + draw.normal(0.0, 12.0)
    half = draw.uniform((25.0, 70.0))
    return ((at - middle).abs() <= half).float().view(-1, 1, 1)
