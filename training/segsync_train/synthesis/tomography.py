"""CT without contrast medium and CT angiography, in HU: tissues, old and early ischaemia, beam hardening, noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from segsync_train.config.synthesis import AcquisitionConfig, LesionConfig
from segsync_train.synthesis import lesions, scanner
from segsync_train.synthesis.anatomy import Anatomies
from segsync_train.synthesis.fields import Draw, gaussian, smoothstep
from segsync_train.synthesis.ischaemia import Ischaemia
from segsync_train.synthesis.scene import Scene
from segsync_train.synthesis.tissues import Tissue

#: Attenuation in HU, and its standard deviation between patients (rounded; see Bier et al. 2016 for grey and white
#: matter). Bone at 2 mm; the scalp is mostly fat.
ATTENUATION: dict[Tissue, tuple[float, float]] = {
    Tissue.CORTEX: (37.0, 1.0),
    Tissue.WHITE: (29.0, 1.0),
    Tissue.CEREBELLAR_CORTEX: (37.0, 1.5),
    Tissue.CEREBELLAR_WHITE: (31.0, 1.5),
    Tissue.DEEP_GREY: (37.0, 1.0),
    Tissue.IRON_GREY: (38.0, 2.0),
    Tissue.BRAINSTEM: (31.0, 1.5),
    Tissue.VENTRICLE: (6.0, 2.0),
    Tissue.OUTER_CSF: (9.0, 2.5),
    Tissue.ARTERY: (42.0, 3.0),
    Tissue.VEIN: (52.0, 5.0),
    Tissue.BONE: (950.0, 200.0),
    Tissue.MARROW: (350.0, 120.0),
    Tissue.SOFT: (45.0, 12.0),
    Tissue.SKIN: (-30.0, 40.0),
    Tissue.MUCOSA: (30.0, 15.0),
    Tissue.EYE: (12.0, 5.0),
}
AIR = -1000.0
GREY = [Tissue.CORTEX, Tissue.CEREBELLAR_CORTEX, Tissue.DEEP_GREY, Tissue.IRON_GREY]


@dataclass(frozen=True)
class Disease:
    """What is not acute: fractions (Z, Y, X), never part of the target: old infarcts and lacunes are partly fluid."""

    cavity: Tensor
    white_matter: Tensor


def disease(draw: Draw, scene: Scene, anatomies: Anatomies, config: LesionConfig) -> Disease:
    """Old infarcts, lacunes and white matter disease of one patient."""
    cavity = torch.zeros(scene.size_zyx, device=draw.device)
    if draw.chance(config.chronic):
        for _ in range(draw.integer(1, 2)):
            library = anatomies.chronic if draw.chance(0.35) else anatomies.acute
            fraction = lesions.real_shape(draw, scene, library, config)
            rough = 0.2 * draw.smooth_noise(scene.size_zyx, 3.0)[0]
            core = smoothstep(gaussian(fraction, 0.6) + rough, 0.4, 0.8)
            cavity = torch.maximum(cavity, core * draw.uniform((0.4, 1.0)))
    if draw.chance(config.lacunes):
        inner = gaussian(scene.tissues[Tissue.WHITE] + scene.tissues[Tissue.DEEP_GREY], 1.0) ** 6
        spots = lesions.spots(draw, scene, inner, draw.integer(1, 10), (1.0, 4.0))
        cavity = torch.maximum(cavity, spots * draw.uniform((0.4, 1.0)))
    white = torch.zeros_like(cavity)
    if draw.chance(config.white_matter):
        white = lesions.white_matter_hyperintensities(draw, scene) * draw.uniform((0.2, 1.0))
    return Disease(cavity, white)


def attenuation(draw: Draw, scene: Scene, stroke: Ischaemia, old: Disease, clot: Tensor) -> Tensor:
    """HU (Z, Y, X) of a head without contrast medium."""
    common = draw.normal(0.0, 1.2)
    values = []
    for tissue in list(Tissue)[: len(scene.tissues)]:
        mean, std = ATTENUATION[tissue]
        values.append(draw.normal(mean, std) + common * (tissue < Tissue.VENTRICLE))
    table = torch.tensor(values, device=draw.device)
    # Where the skull is left out, the voxels at its inner side hold dura and some bone.
    outside = draw.uniform((20.0, 200.0)) if scene.skull_stripped else AIR
    hu = torch.einsum("t,tzyx->zyx", table, scene.tissues)
    hu = hu + outside * (1 - scene.tissues.sum(0)).clamp(0, 1)
    size, tissues = scene.size_zyx, scene.tissues
    brain = scene.parenchyma
    hu = hu + brain * draw.uniform((0.0, 1.2)) * draw.smooth_noise(size, draw.uniform((5.0, 14.0)))[0]
    if not scene.skull_stripped:
        extra = tissues[Tissue.SKIN] + tissues[Tissue.SOFT]
        hu = hu - extra * draw.uniform((20.0, 80.0)) * draw.smooth_noise(size, 4.0)[0].clamp(-0.5, 2.0)
        hu = hu + tissues[Tissue.BONE] * draw.uniform((50.0, 200.0)) * draw.smooth_noise(size, 2.0)[0].clamp(-2, 2)
    hu = hu - brain * old.white_matter * draw.uniform((2.0, 9.0))
    fluid = table[Tissue.VENTRICLE] + draw.uniform((0.0, 4.0))
    hu = torch.lerp(hu, fluid.expand_as(hu), old.cavity * brain.clamp(0, 1))
    hu = hu + _early_signs(draw, scene, stroke)
    hu = hu + clot * (draw.uniform((0.0, 12.0)) if draw.chance(0.4) else draw.uniform((12.0, 45.0)))
    return hu + _calcified(draw, scene)


def _early_signs(draw: Draw, scene: Scene, stroke: Ischaemia) -> Tensor:
    """Oedema of the infarct, more in grey matter, so that its border with white matter fades; narrow sulci."""
    drop = draw.uniform((0.0, 1.0)) if draw.chance(0.25) else draw.uniform((2.0, 10.0))
    # What is reperfused shows on CT alone.
    dark = torch.maximum(stroke.core * drop, stroke.flooded * max(drop, draw.uniform((3.0, 9.0))))
    dark = gaussian(dark, draw.uniform((0.4, 1.0)))
    dark = dark * (1 + draw.uniform((0.0, 0.25)) * draw.smooth_noise(scene.size_zyx, 4.0)[0]).clamp(0.4, 1.5)
    grey = scene.tissues[GREY].sum(0)
    signs = -dark * (grey + draw.uniform((0.4, 0.9)) * (scene.parenchyma - grey).clamp(min=0))
    # What is swollen displaces the fluid in its sulci.
    narrow = gaussian((dark / 6.0).clamp(max=1), 1.0) * gaussian(scene.parenchyma, 1.5)
    return signs + 22.0 * draw.uniform((0.0, 0.7)) * narrow * scene.tissues[Tissue.OUTER_CSF]


def haematoma(draw: Draw, scene: Scene, anatomies: Anatomies, config: LesionConfig) -> Tensor:
    """What fresh blood adds (Z, Y, X), in HU, in the place of an infarct."""
    fraction = lesions.real_shape(draw, scene, anatomies.acute, config)
    return gaussian(fraction, draw.uniform((0.3, 1.0))) * scene.parenchyma * draw.uniform((15.0, 50.0))


def headrest(draw: Draw, scene: Scene) -> Tensor:
    """What a headrest adds to the air (Z, Y, X), in HU: a shell of foam or plastic some way behind the head."""
    near = gaussian(scene.tissues.sum(0), draw.uniform((10.0, 16.0)) / scene.spacing_mm)
    middle, width = draw.log_uniform((0.02, 0.25)), draw.uniform((0.2, 0.7))
    shell = torch.exp(-((torch.log(near.clamp(min=1e-4) / middle) / width) ** 2))
    behind = smoothstep(scene.standard_mm[1], *sorted((draw.uniform((0.0, 60.0)), draw.uniform((60.0, 90.0)))))
    return shell * behind * (1 - scene.tissues.sum(0)).clamp(0, 1) * draw.log_uniform((60.0, 1200.0))


def _calcified(draw: Draw, scene: Scene) -> Tensor:
    """Calcified plexus and basal ganglia."""
    result = torch.zeros(scene.size_zyx, device=draw.device)
    if draw.chance(0.5):
        plexus = lesions.choroid_plexus(draw, scene)
        result = plexus * draw.uniform((10.0, 150.0)) * gaussian(plexus, 1.0)
    if draw.chance(0.2):
        rough = smoothstep(draw.smooth_noise(scene.size_zyx, 2.0)[0], 0.3, 1.5)
        result = result + draw.uniform((5.0, 80.0)) * rough * scene.tissues[Tissue.IRON_GREY]
    return result


def enhanced(draw: Draw, scene: Scene, hu: Tensor, filled: Tensor, volume: Tensor, stroke: Ischaemia) -> Tensor:
    """HU (Z, Y, X) with contrast medium: in arteries and, later, veins; in the brain by its blood volume (ml/100 g)."""
    contrast = draw.log_uniform((150.0, 500.0))
    venous = draw.uniform((0.05, 1.0))
    tissues = scene.tissues
    # Fewer and thinner vessels in the territory that has no supply but collaterals.
    missing = draw.uniform((0.0, 0.9)) * stroke.penumbra
    hu = hu + contrast * torch.maximum(filled, 0.9 * tissues[Tissue.ARTERY] * (1 - missing))
    hu = hu + contrast * venous * tissues[Tissue.VEIN]
    hu = hu + contrast * draw.uniform((0.3, 0.8)) * volume.clamp(max=8.0) / 100 * scene.parenchyma
    # Vessels on the brain's surface are thinner than a voxel: a fine irregular net in the sulci.
    net = draw.smooth_noise(scene.size_zyx, draw.uniform((1.5, 3.0)))[0]
    net = smoothstep(net, draw.uniform((-0.2, 0.4)), draw.uniform((1.4, 2.2)))
    near = smoothstep(gaussian(scene.parenchyma, 1.5), 0.1, 0.5) * tissues[Tissue.OUTER_CSF]
    hu = hu + contrast * draw.uniform((0.1, 0.5)) * net * near * (1 - missing)
    if not scene.skull_stripped:
        hu = hu + draw.uniform((5.0, 60.0)) * tissues[Tissue.MUCOSA] + draw.uniform((0.0, 25.0)) * tissues[Tissue.SOFT]
    return hu


def acquire(
    draw: Draw, scene: Scene, hu: Tensor, inside: Tensor, config: AcquisitionConfig, thickness: tuple[float, float]
) -> Tensor:
    """A CT series of a head, back on the model's grid. inside: (Z, Y, X) what a skull-stripping program keeps."""
    shadow = _shadow(scene)
    dark = draw.uniform((0.0, 20.0)) if draw.chance(0.7) else 0.0
    rim = gaussian(1 - inside, draw.uniform((3.0, 8.0)) / scene.spacing_mm)
    bent = hu - dark * shadow * (hu > -200) + draw.uniform((-1.0, 5.0)) * rim * inside
    slices = scanner.draw_slices(draw, scene, config, thickness)
    bent = scanner.point_spread(draw, bent, scene, slices, config)
    series = slices.acquire(torch.stack([bent, shadow, inside]))
    # At the model's spacing many of a scanner's pixels are averaged: little is left of their noise.
    std = draw.log_uniform((0.5, 3.5))
    image = series[0] + std * _grain(draw, series[0].shape, draw.uniform((0.3, 1.0))) * (1 + series[1].abs())
    image = image.clamp(-1024, 3071)
    if scene.skull_stripped:
        image = image * scanner.brain_mask(draw, series[2], scene.spacing_mm)
    return slices.regrid(image)


def _grain(draw: Draw, size: torch.Size, smooth_vox: float) -> Tensor:
    """Noise of unit variance, independent between slices, within them correlated by the reconstruction's filter."""
    noise = gaussian(draw.noise(size), (0.0, smooth_vox, smooth_vox))
    # The ramp filter takes the lowest frequencies out.
    noise = noise - draw.uniform((0.3, 0.9)) * gaussian(noise, (0.0, 3.0, 3.0))
    return noise / noise.std()


def _shadow(scene: Scene) -> Tensor:
    """Beam hardening, about 0 to 1: dark bands between dense bones (Z, Y, X), as between the petrous bones.

    A ray through much bone on both sides of a place loses its soft part; what differs from the rows in front and
    behind is the band. Without a skull: bands at the petrous bones' height.
    """
    if scene.skull_stripped:
        z, y, _ = scene.standard_mm
        front = torch.exp(-(((z + 31) / 8) ** 2) - ((y - 20) / 5) ** 2)
        return front + 0.5 * torch.exp(-(((z + 36) / 8) ** 2) - ((y - 34) / 4) ** 2)
    bone = scene.tissues[Tissue.BONE] + 0.3 * scene.tissues[Tissue.MARROW]
    before = bone.cumsum(2) * scene.spacing_mm
    after = before[..., -1:] - before
    both = torch.sqrt((before * after).clamp(min=0)) / 25.0
    band = both - gaussian(both, (0.0, 12.0 / scene.spacing_mm, 0.0))
    return gaussian(band, (0.0, 0.4, 1.0)).clamp(-0.6, 1.5)
