"""T1-weighted images (`aims-tbi`, `isles26`, `brain`): any sequence, any scanner, old lesions and what imitates them.

Every voxel is a mixture of matters whose signals one signal equation gives, so that cavities, scars and blood look as
they do beside cortex and white matter in the same image, and partial volume follows by itself.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from segsync_train.config.synthesis import SynthesisConfig
from segsync_train.synthesis import injuries, lesions, scanner
from segsync_train.synthesis.ageing import aged, inside_dura
from segsync_train.synthesis.anatomy import Anatomies
from segsync_train.synthesis.extra_axial import with_extra_axial_fluid
from segsync_train.synthesis.fields import Draw, gaussian, smoothstep
from segsync_train.synthesis.injuries import Foreign, Injury, Lesion
from segsync_train.synthesis.retraction import retracted
from segsync_train.synthesis.scene import Scene
from segsync_train.synthesis.sequences import MATTER, Matter, draw_sequence
from segsync_train.synthesis.tissues import INTRACRANIAL, PARENCHYMA, Tissue

#: What tells a lesion from no lesion, relative to the signal of white matter there, and in standard deviations of the
#: noise; how far it must also be from cortex, beside which it is otherwise taken for more of it.
VISIBLE, VISIBLE_NOISE, UNLIKE_CORTEX = 0.12, 2.0, 0.08


def render(
    draw: Draw, scene: Scene, anatomies: Anatomies, config: SynthesisConfig
) -> tuple[Tensor, Tensor, tuple[bool, ...]]:
    """Image (1, Z, Y, X) without unit; target (Z, Y, X) uint8, lesions; what is present."""
    image, lesion, _ = _rendered(draw, scene, anatomies, config)
    return image, lesion, (True,)


def render_brain(
    draw: Draw, scene: Scene, anatomies: Anatomies, config: SynthesisConfig
) -> tuple[Tensor, Tensor, tuple[bool, ...]]:
    """The same images, where the target is the brain with its ventricles and what it has lost."""
    image, _, brain = _rendered(draw, scene, anatomies, config)
    return image, brain, (True,)


def _rendered(draw: Draw, scene: Scene, anatomies: Anatomies, config: SynthesisConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Image (1, Z, Y, X), lesions and brain (Z, Y, X) uint8."""
    scene = aged(draw, scene, config.t1.ageing)
    if draw.chance(config.t1.extra_axial_fluid):
        scene = with_extra_axial_fluid(draw, scene)
    drawn = injuries.draw_lesions(draw, scene, anatomies, config)
    scene, drawn = _drawn_in(draw, scene, drawn, config)
    injury = injuries.imitations(draw, scene, config)
    before = injury.fractions.clone()
    for lesion in drawn:
        lesion.fill(draw, scene, config, injury, lesion.fraction)
    tissue, foreign = _signals(draw, config) if scene.signals is None else _scan_signals(draw, scene.signals)
    healthy, brain = _healthy(draw, scene, tissue)
    image = healthy + _changed(scene, brain, injury.fractions, foreign)
    change = (image - healthy - _changed(scene, brain, before, foreign)).abs()
    unlike_cortex = (image - tissue[Tissue.CORTEX]).abs() * (VISIBLE / UNLIKE_CORTEX)
    # Grey within white matter is seen, grey beside cortex is not.
    cortex = smoothstep(gaussian(scene.tissues[Tissue.CORTEX], 1.0), 0.1, 0.35)
    change = torch.minimum(change, torch.lerp(change, unlike_cortex, cortex))
    if scene.texture is not None:
        image = image.clamp(min=0) ** draw.uniform(config.t1.scan_gamma)
    return _acquired(draw, scene, config, image, change, injury)


def _drawn_in(draw: Draw, scene: Scene, drawn: list[Lesion], config: SynthesisConfig) -> tuple[Scene, list[Lesion]]:
    """Head and lesions after lost tissue has drawn its surroundings in."""
    lost = [lesion for lesion in drawn if lesion.retracts and bool(lesion.fraction.any())]
    if not lost or not draw.chance(config.t1.ex_vacuo):
        return scene, drawn
    pull, reach = draw.uniform(config.t1.ex_vacuo_mm), draw.uniform(config.t1.ex_vacuo_reach_mm)
    scene, fractions = retracted(draw, scene, [lesion.fraction for lesion in lost], pull, reach)
    kept = [lesion for lesion in drawn if lesion not in lost]
    return scene, kept + [replace(lesion, fraction=fraction) for lesion, fraction in zip(lost, fractions, strict=True)]


def _scan_signals(draw: Draw, tissue: Tensor) -> tuple[Tensor, Tensor]:
    """The signals of a real scan, and those of foreign matter in proportion to its fluid and its grey matter."""
    water, cortex = float(tissue[Tissue.VENTRICLE]), float(tissue[Tissue.CORTEX])

    def between(low: float, high: float) -> float:
        return water + draw.uniform((low, high)) * (cortex - water)

    fluid, scar = between(-0.1, 0.25), between(0.4, 1.1)
    foreign = [water, max(fluid, 0.02), scar, draw.uniform((1.0, 1.5)), cortex * draw.uniform((0.2, 0.7))]
    return tissue, tissue.new_tensor(foreign)


def _signals(draw: Draw, config: SynthesisConfig) -> tuple[Tensor, Tensor]:
    """Signals of the 17 tissues and of the 5 foreign matters, that of white matter being 1."""
    equation = draw_sequence(draw, config.t1.sequences)
    # T1 of tissue is shorter at 1.5 T, and shorter still in some protocols' reference values; that of fluid is not.
    field = draw.uniform((0.72, 1.08))
    matters = []
    for tissue in Tissue:
        is_brain = tissue < Tissue.VENTRICLE
        spread = 0.05 if is_brain else 0.04 if tissue <= Tissue.OUTER_CSF else 0.25
        fixed = MATTER[tissue]
        t1 = fixed.t1 * (field if is_brain else 1.0) * math.exp(draw.normal(0.0, spread))
        density = fixed.density * math.exp(draw.normal(0.0, 0.03 if is_brain else spread))
        matters.append(Matter(density, t1, fixed.t2_star * math.exp(draw.normal(0.0, 0.1))))
    scar_t1 = matters[Tissue.CORTEX].t1 * draw.uniform((1.1, 1.9))
    matters += [
        Matter(1.0, draw.uniform((3600.0, 4500.0)), 800.0),
        Matter(0.98, draw.uniform((2600.0, 4300.0)), draw.uniform((100.0, 800.0))),
        Matter(draw.uniform((0.8, 0.9)), scar_t1, draw.uniform((50.0, 90.0))),
        Matter(0.85, draw.uniform((280.0, 650.0)), draw.uniform((15.0, 40.0))),
        Matter(0.72, draw.uniform((900.0, 1300.0)), draw.log_uniform((2.0, 12.0))),
    ]
    signals = equation(matters)
    # Blood that flows in has not been saturated.
    for vessel in (Tissue.ARTERY, Tissue.VEIN):
        signals[vessel] *= draw.log_uniform((0.4, 3.0))
    signals /= signals[Tissue.WHITE]
    if draw.chance(config.t1.altered):
        signals *= np.exp(draw.scalars.normal(0.0, 0.2, len(signals)))
    elif draw.chance(config.t1.random):
        signals = draw.scalars.uniform(0.05, 1.3, len(signals))
    table = torch.tensor(signals / signals[Tissue.WHITE], dtype=torch.float32, device=draw.device)
    return table[: len(Tissue)], table[len(Tissue) :]


def _healthy(draw: Draw, scene: Scene, signals: Tensor) -> tuple[Tensor, Tensor]:
    """The image (Z, Y, X) without anything foreign, and brain tissue's part in it."""
    count, size = len(scene.tissues), scene.size_zyx
    brain = (signals[PARENCHYMA] @ scene.tissues[PARENCHYMA].flatten(1)).view(size)
    if scene.texture is not None:
        brain = brain + scene.texture * smoothstep(scene.parenchyma, 0.0, 0.5)
    other = (signals[Tissue.VENTRICLE : count] @ scene.tissues[Tissue.VENTRICLE :].flatten(1)).view(size)
    # Tissue is not uniform: regional differences, and fine grain; outside the brain more than within.
    region = draw.uniform((0.0, 0.06)) * draw.smooth_noise(size, draw.uniform((5.0, 14.0)))[0]
    # A scan has its own grain.
    grain_std = draw.uniform((0.0, 0.05 if scene.texture is None else 0.015))
    grain = grain_std * draw.smooth_noise(size, draw.uniform((1.0, 3.0)))[0]
    brain = brain * torch.exp(region + grain)
    if not scene.skull_stripped:
        other = other + fatty(draw, scene) * (signals[Tissue.SKIN] - signals[Tissue.SOFT])
        shell = scene.tissues[Tissue.BONE :].sum(0)
        coarse = draw.smooth_noise(size, draw.uniform((2.0, 5.0)))[0]
        other = other * torch.exp(draw.uniform((0.0, 0.35)) * shell * coarse)
    if draw.chance(0.6 if scene.texture is None else 0.2):
        plexus = lesions.choroid_plexus(draw, scene)
        other = other * (1 - plexus) + plexus * draw.uniform((0.4, 0.9)) * signals[Tissue.CORTEX]
    return brain + other, brain


def fatty(draw: Draw, scene: Scene) -> Tensor:
    """Fraction (Z, Y, X) of a voxel that is fat among soft tissue: about the eyes, below the skin, between muscles.

    The label maps do not tell fat from muscle. Where both were alike, eyes looked like cavities in brain.
    """
    size, spacing = scene.size_zyx, scene.spacing_mm
    about_eyes = 4.0 * gaussian(scene.tissues[Tissue.EYE], 8.0 / spacing)
    below_skin = 2.0 * gaussian(scene.tissues[Tissue.SKIN], draw.uniform((2.0, 6.0)) / spacing)
    between = draw.uniform((0.1, 0.4)) * draw.smooth_noise(size, draw.uniform((4.0, 10.0)) / spacing)[0]
    return scene.tissues[Tissue.SOFT] * smoothstep(about_eyes + below_skin + between, 0.2, 0.6)


def _changed(scene: Scene, brain: Tensor, fractions: Tensor, foreign: Tensor) -> Tensor:
    """What foreign matter adds to the image or takes from it (Z, Y, X)."""
    put = (foreign @ fractions.flatten(1)).view(scene.size_zyx)
    return scene.parenchyma * put - brain * fractions.sum(0)


def _acquired(
    draw: Draw, scene: Scene, config: SynthesisConfig, image: Tensor, change: Tensor, injury: Injury
) -> tuple[Tensor, Tensor, Tensor]:
    """The image through the scanner and onto the model's grid, with the lesions that it shows, and the brain.

    change: how far lesions stand out (Z, Y, X), relative to white matter.
    """
    chosen = config.t1.acquisition
    # A reader closes the outline over the sulci of the gyri that died.
    outline = injury.outline * inside_dura(scene) * smoothstep(gaussian(scene.parenchyma, 1.5), 0.05, 0.25)
    inside = scanner.within_skull(draw, scene)
    tissue = outline * scene.parenchyma
    seen = gaussian(change * outline, 1.5) / gaussian(tissue, 1.5).clamp(min=0.05)

    profile = scanner.receive_profile(draw, scene, chosen)
    image = image * profile
    thickness = chosen.slice_mm if draw.chance(chosen.thick) else chosen.thin_mm
    slices = scanner.draw_slices(draw, scene, chosen, thickness)
    image = scanner.point_spread(draw, scanner.add_motion(draw, image, chosen.motion), scene, slices, chosen)
    image, outline, seen, received, inside, air, brain = slices.acquire(
        torch.stack([image, outline, seen, seen * profile, inside, 1 - scene.tissues.sum(0), scene.brain])
    ).unbind()
    image = image * scanner.slice_gains(draw, slices, draw.uniform((0.0, 0.02)) * draw.chance(chosen.thick))
    noise = draw.log_uniform(chosen.noise)
    image = scanner.add_noise(draw, image, noise, draw.uniform((0.0, 0.6)), slices.axis)
    marked = (outline > draw.uniform((0.35, 0.5))) & (seen > VISIBLE) & (received > VISIBLE_NOISE * noise)
    if scene.skull_stripped:
        kept = scanner.brain_mask(draw, inside, scene.spacing_mm)
        image, marked, brain = image * kept, marked & (kept > 0), brain * kept
    else:
        if draw.chance(chosen.defaced):
            image = image * slices.acquire(_without_face(draw, scene)).round()
        if draw.chance(chosen.blanked):
            image = image * (gaussian(air, 1.0) < 0.9)
    image = slices.regrid(image)
    if draw.chance(0.6):
        # Exported with the brightest, fat and vessels, cut off.
        image = image.clamp(max=draw.uniform((1.3, 2.5)) * float(image[image > 0.5].median()))
    target = slices.regrid(marked.float()) >= 0.5
    ventricle = scene.tissues[Tissue.VENTRICLE] + scene.parenchyma * injury.fractions[Foreign.WATER]
    target = target & (ventricle < 0.5)
    brain = slices.regrid(brain) >= 0.5
    return (image * draw.log_uniform((60.0, 3000.0)))[None], target.to(torch.uint8), brain.to(torch.uint8)


def _without_face(draw: Draw, scene: Scene) -> Tensor:
    """1 where a defacing program leaves the image as it is, 0 in front of and below a plane before the brain."""
    brain = gaussian(scene.tissues[INTRACRANIAL].sum(0), 4.0 / scene.spacing_mm)
    z, y = scene.standard_mm[0], scene.standard_mm[1]
    tilt = draw.uniform((0.5, 1.2))
    before = -y - 50.0 - tilt * (z + draw.uniform((-10.0, 15.0)))
    return 1 - smoothstep(before, -0.5, 0.5) * (brain < 0.02)
