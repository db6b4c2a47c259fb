"""Old lesions of the brain as T1 images show them: which matter is where, and what a reader would outline.

Cavities, scars, blood products and iron of traumatic brain injury (`trauma`) and of old strokes (`stroke`), and what is
never part of the target (`imitations`). How bright each matter is, is the contrast's part (`t1`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from segsync_train.config.synthesis import Range, SynthesisConfig
from segsync_train.synthesis import lesions
from segsync_train.synthesis.anatomy import Anatomies
from segsync_train.synthesis.fields import Draw, gaussian, smoothstep
from segsync_train.synthesis.scene import Scene, rotation_zyx
from segsync_train.synthesis.tissues import Tissue


class Foreign(IntEnum):
    """What takes the place of brain tissue; rows of `Injury.fractions`."""

    #: Fluid as the ventricles hold, and that of a cavity, richer in protein.
    WATER = 0
    FLUID = 1
    #: Gliosis, oedema, tissue on its way to a cavity: T1 between cortex and fluid.
    SCAR = 2
    #: Methaemoglobin (bright), and what remains of it, haemosiderin (dark where T2* counts).
    BLOOD = 3
    IRON = 4


#: Where the brain strikes the skull: middle and reach in mm, MNI (LPS, ZYX), of one side. Frontal poles and orbital
#: surface, temporal poles, lower and outer temporal lobe (Bigler 2007, doi:10.1037/0894-4105.21.5.515).
POLES: tuple[tuple[tuple[float, float, float], float], ...] = (
    ((-16.0, -40.0, 20.0), 14.0),
    ((2.0, -62.0, 22.0), 14.0),
    ((-26.0, -10.0, 42.0), 12.0),
    ((-24.0, 18.0, 56.0), 16.0),
)


@dataclass
class Injury:
    """fractions: (5, Z, Y, X), by `Foreign`, of brain tissue; outline: (Z, Y, X), how much of a voxel is lesion."""

    fractions: Tensor
    outline: Tensor

    @classmethod
    def none(cls, scene: Scene) -> "Injury":
        """A brain without."""
        zero = torch.zeros((len(Foreign), *scene.size_zyx), device=scene.tissues.device)
        return cls(zero, zero[0].clone())

    def lay(self, matter: Foreign, fraction: Tensor) -> None:
        """Put a fraction (Z, Y, X) of one matter over what is there."""
        self.fractions *= 1 - fraction
        self.fractions[matter] += fraction


#: Draws the labelled lesions of one brain into an injury.
LesionMix = Callable[[Draw, Scene, Anatomies, SynthesisConfig, Injury], None]


def trauma(draw: Draw, scene: Scene, anatomies: Anatomies, config: SynthesisConfig, injury: Injury) -> None:
    """Moderate to severe traumatic brain injury: contusions, axonal injury, cavities of other shapes."""
    chosen = config.t1.trauma
    if draw.chance(chosen.none):
        return
    kind = draw.choice(chosen.kinds)
    fresh = draw.chance(chosen.fresh)
    if kind in (0, 2, 4):
        for _ in range(1 + draw.choice(chosen.contusions)):
            fraction = _contusion(draw, scene, _struck(draw, scene, chosen.elsewhere), chosen.contusion_mm)
            _scarred(draw, scene, config, injury, fraction, cavity=draw.chance(0.35 if fresh else 0.95))
            if fresh:
                _bleed(draw, scene, injury, fraction)
            elif draw.chance(0.4):
                injury.lay(Foreign.IRON, _rim(draw, scene, fraction))
    if kind in (3, 4):
        library = anatomies.chronic if draw.chance(0.5) else anatomies.acute
        fraction = lesions.real_shape(draw, scene, library, config.lesions)
        _scarred(draw, scene, config, injury, fraction, cavity=draw.chance(0.95))
    if kind in (1, 2):
        count = round(draw.log_uniform((float(chosen.axonal[0]), float(chosen.axonal[1]))))
        fraction = lesions.spots(draw, scene, _shear(draw, scene), count, chosen.axonal_mm)
        injury.lay(Foreign(draw.choice((0.0, 0.25, 0.45, 0.0, 0.3))), fraction * draw.uniform((0.6, 1.0)))
        injury.outline = torch.maximum(injury.outline, fraction)


def stroke(draw: Draw, scene: Scene, anatomies: Anatomies, config: SynthesisConfig, injury: Injury) -> None:
    """Chronic and subacute infarcts: territorial and lacunar."""
    chosen = config.t1.stroke
    if draw.chance(chosen.none):
        return
    kind = draw.choice(chosen.kinds)
    cavity = not draw.chance(chosen.subacute)
    if kind in (0, 2):
        for _ in range(1 + draw.choice(chosen.several)):
            library = anatomies.chronic if draw.chance(chosen.chronic_shapes) else anatomies.acute
            fraction = lesions.real_shape(draw, scene, library, config.lesions)
            _scarred(draw, scene, config, injury, fraction, cavity=cavity and draw.chance(0.9))
            if not cavity and draw.chance(0.15):
                _bleed(draw, scene, injury, fraction)
    if kind in (1, 2):
        weights = _deep(scene) if draw.chance(0.75) else scene.parenchyma.clamp(0, 1) ** 4
        fraction = lesions.spots(draw, scene, weights, draw.integer(*chosen.lacunes), chosen.lacune_mm)
        _scarred(draw, scene, config, injury, fraction, cavity=cavity)


def imitations(draw: Draw, scene: Scene, config: SynthesisConfig) -> Injury:
    """White matter disease, wide perivascular spaces, microbleeds: never part of the target."""
    injury = Injury.none(scene)
    if draw.chance(config.lesions.white_matter):
        fraction = lesions.white_matter_hyperintensities(draw, scene)
        injury.lay(Foreign.SCAR, fraction * draw.uniform((0.2, 0.8)))
    if draw.chance(config.t1.perivascular):
        weights = _deep(scene)
        if draw.chance(0.5):
            # Below the putamen, and towards the vertex.
            weights = weights * (0.1 + smoothstep(-scene.standard_mm[0], -8.0, 8.0))
        count = round(draw.log_uniform((3.0, 80.0)))
        fraction = lesions.spots(draw, scene, weights, count, (0.5, 1.6))
        injury.lay(Foreign.WATER, fraction * draw.uniform((0.3, 0.9)))
    if draw.chance(config.lesions.microbleeds):
        fraction = lesions.spots(draw, scene, scene.parenchyma.clamp(0, 1) ** 4, draw.integer(1, 12), (0.8, 2.0))
        injury.lay(Foreign.IRON, fraction * draw.uniform((0.4, 1.0)))
    return injury


def widen_ventricle(draw: Draw, scene: Scene, injury: Injury) -> None:
    """Ex vacuo: the ventricle grows towards lost tissue. What becomes ventricle is no longer outlined."""
    pull = gaussian(injury.outline, 8.0 / scene.spacing_mm)
    rough = 1 + 0.3 * draw.smooth_noise(scene.size_zyx, 12.0 / scene.spacing_mm)[0]
    reach = draw.uniform((3.0, 16.0)) * smoothstep(pull, 0.05, 0.6) * rough
    fraction = smoothstep(reach - scene.ventricle_mm, -0.7, 0.7)
    injury.lay(Foreign.WATER, fraction)
    injury.outline = injury.outline * (1 - fraction)


def _scarred(
    draw: Draw, scene: Scene, config: SynthesisConfig, injury: Injury, fraction: Tensor, *, cavity: bool
) -> None:
    """A lesion with a soft border: scar all over, more or less dense, and a cavity in its middle."""
    border = draw.uniform(config.lesions.border_mm) / scene.spacing_mm / 2
    soft = gaussian(fraction, border)
    patches = draw.smooth_noise(scene.size_zyx, draw.uniform((1.5, 5.0)))[0]
    density = draw.uniform((0.4, 1.0)) * (1 + draw.uniform((0.0, 0.3)) * patches)
    injury.lay(Foreign.SCAR, (soft * density).clamp(0, 1))
    if cavity:
        rim = gaussian(fraction, draw.uniform((0.3, 3.0)) / scene.spacing_mm)
        rough = draw.uniform((0.0, 0.25)) * draw.smooth_noise(scene.size_zyx, draw.uniform((2.0, 6.0)))[0]
        level = draw.uniform((0.2, 0.65))
        core = smoothstep(rim + rough * smoothstep(rim, 0.1, 0.6), level, level + draw.uniform((0.1, 0.4)))
        injury.lay(Foreign.FLUID, (core * soft.clamp(0, 1) * draw.uniform((0.7, 1.0))).clamp(0, 1))
    injury.outline = torch.maximum(injury.outline, fraction)


def _bleed(draw: Draw, scene: Scene, injury: Injury, fraction: Tensor) -> None:
    """Blood products in patches of a lesion, with a rim of iron."""
    clots = draw.smooth_noise(scene.size_zyx, draw.log_uniform((2.0, 6.0)))[0] + draw.uniform((-1.0, 0.6))
    inner = gaussian(fraction, 0.7)
    injury.lay(Foreign.IRON, smoothstep(clots, -0.5, 0.0) * inner * draw.uniform((0.0, 0.8)))
    injury.lay(Foreign.BLOOD, smoothstep(clots, 0.0, 0.9) * inner * draw.uniform((0.3, 1.0)))


def _rim(draw: Draw, scene: Scene, fraction: Tensor) -> Tensor:
    """Fraction of haemosiderin, which stays in patches about an old bleeding's border."""
    border = gaussian(fraction, 1.5 / scene.spacing_mm)
    patches = smoothstep(draw.smooth_noise(scene.size_zyx, draw.uniform((1.5, 4.0)))[0], -0.3, 0.7)
    return 4 * border * (1 - border) * patches * draw.uniform((0.2, 0.8))


def _struck(draw: Draw, scene: Scene, elsewhere: float) -> Tensor:
    """Weights (Z, Y, X) of a contusion's middle: the cortex where the skull's floor strikes it, or anywhere."""
    weights = scene.tissues[Tissue.CORTEX] * smoothstep(scene.tissues[Tissue.OUTER_CSF], 0.05, 0.3)
    if draw.chance(elsewhere):
        return weights
    (z, y, x), reach = POLES[draw.integer(0, len(POLES) - 1)]
    side = 1.0 if draw.chance(0.5) else -1.0
    middle = scene.standard_mm.new_tensor([z, y, side * x]).view(3, 1, 1, 1)
    square = ((scene.standard_mm - middle) ** 2).sum(0)
    return weights * torch.exp(-0.5 * square / reach**2)


def _contusion(draw: Draw, scene: Scene, weights: Tensor, radius_mm: Range) -> Tensor:
    """A rough ellipsoid (Z, Y, X) about one place at the surface, deeper or shallower than it is wide."""
    result = torch.zeros(scene.size_zyx, device=weights.device)
    centre = lesions.pick(draw, weights, 1)
    if len(centre) == 0:
        return result
    radius = draw.log_uniform(radius_mm) / scene.spacing_mm
    axes = radius * np.exp(draw.scalars.normal(0.0, 0.25, 3))
    frame = rotation_zyx(tuple(draw.scalars.uniform(0, 180, 3))) / axes[:, None]
    reach = math.ceil(1.8 * axes.max())
    middle = centre[0].tolist()
    low = [max(at - reach, 0) for at in middle]
    high = [min(at + reach + 1, side) for at, side in zip(middle, scene.size_zyx, strict=True)]
    lines = [
        torch.arange(a, b, dtype=torch.float32, device=weights.device) - at
        for a, b, at in zip(low, high, middle, strict=True)
    ]
    offsets = torch.stack(torch.meshgrid(*lines, indexing="ij"))
    rotated = torch.tensor(frame, dtype=torch.float32, device=weights.device) @ offsets.flatten(1)
    distance = rotated.norm(dim=0).view(offsets.shape[1:])
    bumps = draw.smooth_noise(distance.shape, max(draw.uniform((0.3, 0.8)) * radius, 1.5))[0]
    fine = draw.smooth_noise(distance.shape, 1.5)[0]
    distance = distance + draw.uniform((0.1, 0.3)) * bumps + draw.uniform((0.0, 0.12)) * fine
    soft = 0.5 / radius
    result[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = smoothstep(1 - distance, -soft, soft)
    return result


def _shear(draw: Draw, scene: Scene) -> Tensor:
    """Weights (Z, Y, X) of axonal injury: where grey meets white matter, corpus callosum, upper brainstem."""
    white, cortex = scene.tissues[Tissue.WHITE], scene.tissues[Tissue.CORTEX]
    junction = gaussian(white, 1.0) * gaussian(cortex, 1.0) * white
    if draw.chance(0.5):
        junction = junction * smoothstep(-scene.standard_mm[1], -30.0, 20.0)
    middle = smoothstep(12.0 - scene.standard_mm[2].abs(), 0.0, 6.0)
    callosum = white * middle * smoothstep(-scene.ventricle_mm, -10.0, -4.0)
    brainstem = gaussian(scene.tissues[Tissue.BRAINSTEM], 1.0) ** 4
    return junction + draw.uniform((0.0, 1.0)) * callosum + draw.uniform((0.0, 0.05)) * brainstem


def _deep(scene: Scene) -> Tensor:
    """Weights (Z, Y, X): inside the white matter and the deep grey nuclei."""
    return gaussian(scene.tissues[Tissue.WHITE] + scene.tissues[Tissue.DEEP_GREY], 1.0) ** 6
