"""Old lesions of the brain as T1 images show them: which matter is where, and what a reader would outline.

Cavities, scars, blood products and iron of traumatic brain injury (`trauma`) and of old strokes (`stroke`), and what is
never part of the target (`imitations`). How bright each matter is, is the contrast's part (`t1`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import numpy as np
import torch
from torch import Tensor

from segsync_train.config.ranges import Range
from segsync_train.config.synthesis import SynthesisConfig
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
    """What an injury does to the brain.

    Attributes:
        fractions: (5, Z, Y, X), by `Foreign`, of brain tissue.
        outline: (Z, Y, X), how much of a voxel is lesion.
    """

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


#: Puts the matter of one lesion (Z, Y, X) into an injury.
Filling = Callable[[Draw, Scene, SynthesisConfig, Injury, Tensor], None]


@dataclass(frozen=True, eq=False)
class Lesion:
    """What a reader outlines, and what it is made of.

    Attributes:
        fraction: (Z, Y, X) in 0 to 1.
        fill: Lays its matter.
        retracts: Whether tissue is lost, so that the surroundings are drawn in.
    """

    fraction: Tensor
    fill: Filling
    retracts: bool = True


def draw_lesions(draw: Draw, scene: Scene, anatomies: Anatomies, config: SynthesisConfig) -> list[Lesion]:
    """The labelled lesions of one brain, of an injury or a stroke."""
    causes: tuple[LesionMix, ...] = (trauma, stroke)
    return causes[draw.choice(config.t1.causes)](draw, scene, anatomies, config)


#: Draws the labelled lesions of one brain; the list is empty for a brain without.
LesionMix = Callable[[Draw, Scene, Anatomies, SynthesisConfig], list[Lesion]]


def trauma(draw: Draw, scene: Scene, anatomies: Anatomies, config: SynthesisConfig) -> list[Lesion]:
    """Moderate to severe traumatic brain injury: contusions, axonal injury, cavities of other shapes."""
    chosen = config.t1.trauma
    if draw.chance(chosen.none):
        return []
    kind = draw.choice(chosen.kinds)
    fresh = draw.chance(chosen.fresh)
    drawn = []
    if kind in (0, 2, 4):
        for _ in range(1 + draw.choice(chosen.contusions)):
            fraction = rough_ellipsoid(draw, scene, _struck(draw, scene, chosen.elsewhere), chosen.contusion_mm)
            cavity = draw.chance(0.35 if fresh else 0.95)
            drawn.append(Lesion(fraction, partial(_contused, cavity=cavity, fresh=fresh), retracts=not fresh))
    if kind in (3, 4):
        library = anatomies.chronic if draw.chance(0.5) else anatomies.acute
        fraction = lesions.real_shape(draw, scene, library, config.lesions)
        drawn.append(Lesion(fraction, partial(_scarred, cavity=draw.chance(0.95))))
    if kind in (1, 2):
        count = round(draw.log_uniform((float(chosen.axonal[0]), float(chosen.axonal[1]))))
        fraction = lesions.spots(draw, scene, _shear(draw, scene), count, chosen.axonal_mm)
        drawn.append(Lesion(fraction, _axonal, retracts=False))
    return drawn


def stroke(draw: Draw, scene: Scene, anatomies: Anatomies, config: SynthesisConfig) -> list[Lesion]:
    """Chronic and subacute infarcts: territorial, lacunar, and white matter that turned to gliosis alone."""
    chosen = config.t1.stroke
    if draw.chance(chosen.none):
        return []
    kind = draw.choice(chosen.kinds)
    cavity = not draw.chance(chosen.subacute)
    drawn = []
    if kind in (0, 2):
        for _ in range(1 + draw.choice(chosen.several)):
            library = anatomies.chronic if draw.chance(chosen.chronic_shapes) else anatomies.acute
            fraction = lesions.real_shape(draw, scene, library, config.lesions)
            drawn.append(Lesion(fraction, partial(_infarcted, cavity=cavity and draw.chance(0.9)), retracts=cavity))
    if kind in (1, 2):
        weights = _deep(scene) if draw.chance(0.75) else scene.parenchyma.clamp(0, 1) ** 4
        fraction = lesions.spots(draw, scene, weights, draw.integer(*chosen.lacunes), chosen.lacune_mm)
        drawn.append(Lesion(fraction, partial(_scarred, cavity=cavity), retracts=False))
    if kind == 3:
        drawn.append(Lesion(_gliotic_white_matter(draw, scene, chosen.gliosis_mm), _gliotic))
    return drawn


def imitations(draw: Draw, scene: Scene, config: SynthesisConfig) -> Injury:
    """White matter disease, wide perivascular spaces, microbleeds: never part of the target."""
    injury = Injury.none(scene)
    if draw.chance(config.lesions.white_matter):
        # On both sides alike, thin and faint: what is as grey as cortex on one side alone is gliosis.
        fraction = lesions.white_matter_hyperintensities(draw, scene, reach_mm=(1.5, 9.0))
        soft = gaussian(fraction, draw.uniform((0.5, 1.5)))
        injury.lay(Foreign.SCAR, soft * draw.log_uniform((0.12, 0.6)))
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


def _infarcted(
    draw: Draw, scene: Scene, config: SynthesisConfig, injury: Injury, fraction: Tensor, *, cavity: bool
) -> None:
    """An old territorial infarct: a cavity crossed by strands and islands of what remains, within a gliotic rim."""
    _scarred(draw, scene, config, injury, fraction, cavity=cavity)
    if not cavity:
        if draw.chance(0.15):
            _bleed(draw, scene, injury, fraction)
        return
    remains = torch.zeros_like(fraction)
    if draw.chance(0.6):
        # Sheets about the zero of smooth noise are thin and connected, as strands are.
        width = draw.uniform((0.08, 0.3))
        noise = draw.smooth_noise(scene.size_zyx, draw.uniform((3.0, 8.0)))[0]
        remains = 1 - smoothstep(noise.abs(), 0.0, width)
    if draw.chance(0.6):
        islands = draw.smooth_noise(scene.size_zyx, draw.uniform((2.0, 6.0)))[0]
        remains = torch.maximum(remains, smoothstep(islands, draw.uniform((0.7, 1.2)), 1.6))
    kept = remains * gaussian(fraction, 0.7) * draw.uniform((0.4, 0.9))
    if draw.chance(0.5):
        injury.lay(Foreign.SCAR, kept)
    else:
        injury.fractions *= 1 - kept


def _contused(
    draw: Draw, scene: Scene, config: SynthesisConfig, injury: Injury, fraction: Tensor, *, cavity: bool, fresh: bool
) -> None:
    """A contusion: scar and cavity, with blood while it is fresh and a rim of iron later."""
    _scarred(draw, scene, config, injury, fraction, cavity=cavity)
    if fresh:
        _bleed(draw, scene, injury, fraction)
    elif draw.chance(0.4):
        injury.lay(Foreign.IRON, _rim(draw, scene, fraction))


def _axonal(draw: Draw, scene: Scene, config: SynthesisConfig, injury: Injury, fraction: Tensor) -> None:
    """Sheared white matter: fluid, scar or iron in small spots."""
    injury.lay(Foreign(draw.choice((0.0, 0.25, 0.45, 0.0, 0.3))), fraction * draw.uniform((0.6, 1.0)))
    injury.outline = torch.maximum(injury.outline, fraction)


def _gliotic(draw: Draw, scene: Scene, config: SynthesisConfig, injury: Injury, fraction: Tensor) -> None:
    """White matter as grey as cortex, with a sharp border or a soft one, seldom with small cavities."""
    soft = gaussian(fraction, draw.uniform((0.3, 3.0)) / scene.spacing_mm)
    patches = draw.smooth_noise(scene.size_zyx, draw.uniform((1.5, 5.0)))[0]
    density = draw.uniform((0.6, 1.1)) * (1 + draw.uniform((0.0, 0.25)) * patches)
    injury.lay(Foreign.SCAR, (soft * density).clamp(0, 1))
    if draw.chance(0.35):
        holes = smoothstep(draw.smooth_noise(scene.size_zyx, draw.uniform((1.5, 3.0)))[0], 0.8, 1.6)
        injury.lay(Foreign.FLUID, holes * soft.clamp(0, 1) * draw.uniform((0.5, 1.0)))
    injury.outline = torch.maximum(injury.outline, fraction)


def _gliotic_white_matter(draw: Draw, scene: Scene, radius_mm: Range) -> Tensor:
    """White matter (Z, Y, X) along one lateral ventricle, or anywhere deep."""
    white = gaussian(scene.tissues[Tissue.WHITE], 0.7)
    near = smoothstep(-scene.ventricle_mm, -22.0, -6.0)
    weights = white.clamp(0, 1) ** 3 * (near if draw.chance(0.75) else 1)
    return rough_ellipsoid(draw, scene, weights, radius_mm) * smoothstep(white, 0.25, 0.65)


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


def rough_ellipsoid(draw: Draw, scene: Scene, weights: Tensor, radius_mm: Range) -> Tensor:
    """A rough ellipsoid (Z, Y, X) about one place, drawn by the weights, longer along one axis than another."""
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
