"""DWI, ADC and FLAIR (`isles22`): signal equations, acute infarcts, and what imitates them.

The images with and without diffusion weighting are made and disturbed first, and ADC is computed of the two, slice by
slice, as a scanner does: partial volume, noise, T2 shine-through and wrong ADC at the skull base follow by themselves.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segsync_train.config.synthesis import SynthesisConfig
from segsync_train.synthesis import lesions, scanner
from segsync_train.synthesis.anatomy import Anatomies
from segsync_train.synthesis.fields import Draw, gaussian, smoothstep
from segsync_train.synthesis.scene import Scene
from segsync_train.synthesis.tissues import PARENCHYMA, Tissue

#: By tissue: proton density; T2 in ms at 1.5 to 3 T; ADC in 1e-6 mm²/s; FLAIR brightness relative to cortex.
#: Values of the literature, rounded (Wansapura 1999, Stanisz 2005 for T2; Le Bihan 2001 for ADC).
PARAMETERS: dict[Tissue, tuple[float, float, float, float]] = {
    Tissue.CORTEX: (0.83, 95.0, 830.0, 1.00),
    Tissue.WHITE: (0.71, 76.0, 730.0, 0.84),
    Tissue.CEREBELLAR_CORTEX: (0.83, 93.0, 780.0, 1.00),
    Tissue.CEREBELLAR_WHITE: (0.72, 78.0, 690.0, 0.88),
    Tissue.DEEP_GREY: (0.81, 84.0, 770.0, 0.96),
    Tissue.IRON_GREY: (0.76, 62.0, 760.0, 0.78),
    Tissue.BRAINSTEM: (0.74, 80.0, 740.0, 0.86),
    Tissue.VENTRICLE: (1.00, 1200.0, 3050.0, 0.08),
    Tissue.OUTER_CSF: (1.00, 900.0, 2900.0, 0.12),
    Tissue.ARTERY: (0.25, 60.0, 2500.0, 0.15),
    Tissue.VEIN: (0.45, 60.0, 2000.0, 0.30),
    Tissue.BONE: (0.03, 30.0, 800.0, 0.05),
    Tissue.MARROW: (0.15, 60.0, 500.0, 0.80),
    Tissue.SOFT: (0.60, 42.0, 1300.0, 0.50),
    Tissue.SKIN: (0.18, 55.0, 600.0, 1.30),
    Tissue.MUCOSA: (0.85, 110.0, 1400.0, 1.30),
    Tissue.EYE: (1.00, 800.0, 2700.0, 0.15),
}

#: How far within a slice a reader who notices an infarct follows its fainter parts.
FOLLOWED_MM = 10.0


@dataclass(frozen=True)
class _Signals:
    """Maps (Z, Y, X) of brain tissue and of all else, so that lesions can change the one and not the other.

    Both without diffusion weighting and FLAIR; `attenuation` is b · ADC of brain tissue.
    """

    brain: Tensor
    brain_weighted: Tensor
    other: Tensor
    other_weighted: Tensor
    brain_flair: Tensor
    other_flair: Tensor


@dataclass
class _Change:
    """What lesions do to brain tissue: additions to ln T2 signal, to b · ADC, to ln FLAIR; fraction turned to fluid."""

    t2: Tensor
    attenuation: Tensor
    flair: Tensor
    cavity: Tensor


def render(
    draw: Draw, scene: Scene, anatomies: Anatomies, config: SynthesisConfig
) -> tuple[Tensor, Tensor, tuple[bool, ...]]:
    """Images (3, Z, Y, X): DWI without unit, ADC in 1e-6 mm²/s, FLAIR; target (Z, Y, X) uint8; what is present."""
    b = draw.uniform((0.9, 1.1))
    signals = _signals(draw, scene, b)
    change = _imitations(draw, scene, anatomies, config, b)
    outline, brighter = _infarcts(draw, scene, anatomies, config, change, b)
    fluid = draw.uniform((0.8, 1.0)) * signals.brain.new_tensor([3.0 * b]).neg().exp()
    water = signals.brain * draw.uniform((1.8, 3.2))
    kept = 1 - change.cavity
    plain = signals.brain * torch.exp(change.t2) * kept + water * change.cavity + signals.other
    weighted = (
        signals.brain_weighted * torch.exp(change.t2 - change.attenuation) * kept
        + water * fluid * change.cavity
        + signals.other_weighted
    )
    flair = signals.brain_flair * torch.exp(change.flair) * (1 - 0.9 * change.cavity) + signals.other_flair
    inside = scanner.within_skull(draw, scene)
    dwi, adc, target = _echo_planar_pair(
        draw, scene, config, plain, weighted, torch.stack([outline, inside, brighter]), b
    )
    if draw.chance(config.acquisition.missing):
        flair, present = torch.zeros_like(dwi), False
    else:
        flair, present = _flair(draw, scene, config, flair, inside), True
    return torch.stack([dwi, adc, flair]), target, (True, True, present)


def _signals(draw: Draw, scene: Scene, b: float) -> _Signals:
    echo = draw.uniform((60.0, 110.0))
    plain, weighted, flair = [], [], []
    common_t2 = draw.normal(0.0, 0.08)
    common_adc = draw.normal(0.0, 0.05)
    for tissue in list(Tissue)[: len(scene.tissues)]:
        density, t2, adc, bright = PARAMETERS[tissue]
        is_brain = tissue < Tissue.VENTRICLE
        # Brain tissues vary together more than against each other; outside the brain anything goes.
        spread = 0.06 if is_brain else 0.3
        t2 *= math.exp(common_t2 + draw.normal(0.0, spread))
        adc *= math.exp(common_adc + draw.normal(0.0, 0.05))
        density *= math.exp(draw.normal(0.0, 0.03 if is_brain else spread))
        signal = density * math.exp(-echo / t2)
        plain.append(signal)
        weighted.append(signal * math.exp(-b * adc / 1000))
        flair.append(bright * math.exp(draw.normal(0.0, 0.08 if is_brain else 0.5)))
    # Equal cortex and white matter, or cortex much brighter: both are met on DWI.
    table = torch.tensor([plain, weighted, flair], device=draw.device) / plain[Tissue.WHITE]
    table[2] *= plain[Tissue.WHITE]
    brain = _mix(table[:, PARENCHYMA], scene.tissues[PARENCHYMA])
    other = _mix(table[:, Tissue.VENTRICLE :], scene.tissues[Tissue.VENTRICLE :])
    size = scene.size_zyx
    # Tissue is not uniform: regional differences of T2 and ADC, bright cortex here and there, fine grain.
    if draw.chance(0.6):
        plexus = lesions.choroid_plexus(draw, scene)
        signal, adc, bright = draw.uniform((1.0, 2.2)), draw.uniform((0.8, 2.2)), draw.uniform((0.5, 1.3))
        values = torch.tensor([signal, signal * math.exp(-b * adc), bright], device=draw.device).view(3, 1, 1, 1)
        other = other * (1 - plexus) + plexus * values
    region = draw.uniform((0.0, 0.07)) * draw.smooth_noise(size, draw.uniform((5.0, 14.0)))[0]
    grain = draw.uniform((0.0, 0.05)) * draw.smooth_noise(size, draw.uniform((1.5, 3.0)))[0]
    log_t2 = region + grain
    weaker = b * 0.8 * draw.uniform((0.0, 0.08)) * draw.smooth_noise(size, draw.uniform((3.0, 10.0)))[0]
    if draw.chance(0.5):
        patches = smoothstep(draw.smooth_noise(size, draw.uniform((8.0, 20.0)))[0], -0.3, 1.0)
        ribbon = patches * (scene.tissues[Tissue.CORTEX] + scene.tissues[Tissue.CEREBELLAR_CORTEX])
        log_t2 = log_t2 + draw.uniform((0.0, 0.25)) * ribbon
        weaker = weaker - draw.uniform((0.0, 0.12)) * ribbon
    gain = torch.exp(log_t2)
    return _Signals(
        brain=brain[0] * gain,
        brain_weighted=brain[1] * gain * torch.exp(-weaker),
        other=other[0],
        other_weighted=other[1],
        brain_flair=brain[2] * torch.exp(draw.uniform((0.3, 1.0)) * log_t2),
        other_flair=other[2] * (1 + draw.uniform((0.0, 0.6)) * draw.smooth_noise(size, 8.0)[0].clamp(min=0) ** 2),
    )


def _mix(table: Tensor, fractions: Tensor) -> Tensor:
    """(images, tissues) times (tissues, Z, Y, X)."""
    return (table @ fractions.flatten(1)).view(-1, *fractions.shape[1:])


def _infarcts(
    draw: Draw, scene: Scene, anatomies: Anatomies, config: SynthesisConfig, change: _Change, b: float
) -> tuple[Tensor, Tensor]:
    """Lay acute and subacute infarcts into `change`.

    Returns what a reader would outline, and how much brighter than before it is on DWI, relative (both Z, Y, X).
    """
    outline = torch.zeros(scene.size_zyx, device=draw.device)
    brighter = outline
    for fraction in lesions.infarcts(draw, scene, anatomies.acute, config.lesions):
        # Hours to two weeks: ADC falls at once and is normal again in the end, T2 rises later (Lansberg 2001).
        age = draw.uniform((0.0, 1.0))
        drop = draw.uniform((0.2, 0.6)) * (1 - age**3)
        t2 = draw.uniform((0.0, 0.35)) + draw.uniform((0.1, 0.65)) * age
        fall = b * 0.78 * drop
        # What DWI does not show is not outlined: an infarct is at least a third to four fifths brighter than about it.
        t2 += max(0.0, draw.uniform((0.3, 0.6)) - t2 - fall)
        flair = t2 * draw.uniform((0.2, 1.0)) * min(1.0, 2.5 * age)
        texture = _texture(draw, scene)
        soft = gaussian(fraction, draw.uniform(config.lesions.border_mm) / scene.spacing_mm / 2)
        # Inside an infarct the white matter's and old lesions' long T2 remains; a cavity is no longer acute.
        change.t2 = torch.lerp(change.t2, torch.maximum(change.t2, texture * t2), soft)
        change.flair = torch.lerp(change.flair, torch.maximum(change.flair, texture * flair), soft)
        change.attenuation = torch.lerp(change.attenuation, -texture * fall, soft)
        change.cavity = change.cavity * (1 - fraction)
        if age > 0.2 and draw.chance(0.15):
            # Petechial bleeding: part of the infarct, dark where it is dense.
            spots = draw.smooth_noise(scene.size_zyx, draw.uniform((1.0, 3.0)))[0] + draw.uniform((-1.5, -0.3))
            change.t2 = change.t2 - draw.uniform((0.4, 1.5)) * soft * smoothstep(spots, 0.0, 0.6)
        outline = torch.maximum(outline, fraction)
        brighter = torch.maximum(brighter, soft * texture * math.expm1(t2 + fall))
    outline = lesions.outlined(outline, scene)
    return outline, brighter * outline


def _texture(draw: Draw, scene: Scene) -> Tensor:
    """Inner structure of a lesion about 1: patches, grain, and grey against white matter."""
    size = scene.size_zyx
    patches = draw.uniform((0.0, 0.3)) * draw.smooth_noise(size, draw.uniform((1.5, 5.0)))[0]
    grey = draw.uniform((-0.4, 0.4)) * (scene.tissues[Tissue.CORTEX] + scene.tissues[Tissue.DEEP_GREY] - 0.5)
    return (1 + patches + grey).clamp(0.5, 1.6)


def _imitations(draw: Draw, scene: Scene, anatomies: Anatomies, config: SynthesisConfig, b: float) -> _Change:
    """What is not acute: old infarcts, white matter disease, lacunes, microbleeds, plexus; never part of the target."""
    zero = torch.zeros(scene.size_zyx, device=draw.device)
    change = _Change(zero, zero, zero, zero)
    chosen = config.lesions
    if draw.chance(chosen.chronic):
        for _ in range(draw.integer(1, 2)):
            library = anatomies.chronic if draw.chance(0.35) else anatomies.acute
            fraction = lesions.real_shape(draw, scene, library, chosen)
            core = smoothstep(gaussian(fraction, 0.8) + 0.2 * draw.smooth_noise(scene.size_zyx, 3.0)[0], 0.5, 0.9)
            change.cavity = torch.maximum(change.cavity, core * draw.uniform((0.0, 1.0)))
            rim = gaussian(fraction, 0.8)
            change.t2 = change.t2 + rim * draw.uniform((0.1, 0.5))
            change.attenuation = change.attenuation + rim * b * draw.uniform((0.15, 1.0))
            change.flair = change.flair + rim * draw.uniform((0.0, 0.6))
    if draw.chance(chosen.white_matter):
        fraction = lesions.white_matter_hyperintensities(draw, scene)
        t2 = draw.uniform((0.1, 0.55))
        change.t2 = change.t2 + fraction * t2
        change.attenuation = change.attenuation + fraction * b * draw.uniform((0.0, 0.5))
        change.flair = change.flair + fraction * t2 * draw.uniform((0.7, 1.4))
    if draw.chance(chosen.lacunes):
        inner = gaussian(scene.tissues[Tissue.WHITE] + scene.tissues[Tissue.DEEP_GREY], 1.0) ** 6
        fraction = lesions.spots(draw, scene, inner, draw.integer(1, 25), (0.7, 4.0))
        change.cavity = torch.maximum(change.cavity, fraction * draw.uniform((0.4, 1.0)))
    if draw.chance(chosen.microbleeds):
        fraction = lesions.spots(draw, scene, scene.parenchyma.clamp(0, 1) ** 4, draw.integer(1, 15), (0.8, 3.0))
        change.t2 = change.t2 - fraction * draw.uniform((0.5, 2.0))
    return change


def _echo_planar_pair(
    draw: Draw,
    scene: Scene,
    config: SynthesisConfig,
    plain: Tensor,
    weighted: Tensor,
    shapes: Tensor,
    b: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """DWI, ADC and the target as they come from one echo-planar series, on the model's grid.

    shapes: (3, Z, Y, X), the infarcts' outline, what is inside the skull, and how much brighter the infarcts are.
    """
    chosen = config.acquisition
    size = scene.size_zyx
    profile = scanner.receive_profile(draw, scene, chosen)
    strength = 0.0 if draw.chance(chosen.undistorted) else draw.uniform(chosen.distortion_mm_per_ppm)
    strength *= 1.0 if draw.chance(0.5) else -1.0
    eddy = _eddy(draw, scene, chosen.eddy_mm)
    # Where the field is steep signal piles up in both images alike, so that ADC stays what it was. That the weighted
    # one shines more, from motion and imperfect refocusing, comes on top.
    steep = torch.stack(torch.gradient(scene.field_ppm, spacing=scene.spacing_mm)).norm(dim=0)
    glow = smoothstep(steep, 0.04, 0.25) * (strength != 0.0)
    glow = glow * (1 + 0.5 * draw.smooth_noise(size, 4.0)[0]).clamp(0, 1.5)
    both = profile * torch.exp(draw.uniform((0.0, 1.2)) * glow)
    plain = plain * both
    weighted = weighted * both * torch.exp(draw.uniform((-0.1, 0.4)) * glow)
    pair = torch.cat(
        [
            scanner.echo_planar(plain[None], scene, strength),
            scanner.echo_planar(weighted[None], scene, strength, eddy),
        ]
    )
    shapes = scanner.displaced(shapes, scene, strength, eddy)

    slices = scanner.draw_slices(draw, scene, chosen)
    pair = scanner.point_spread(draw, scanner.add_ghost(draw, pair, scene.spacing_mm, chosen), scene, slices, chosen)
    pair = slices.acquire(pair)
    shapes = slices.acquire(shapes)
    pair = pair * scanner.slice_gains(draw, slices, draw.uniform((0.0, 0.015)))
    weighted_only = scanner.slice_gains(draw, slices, draw.uniform((0.0, 0.03)) * draw.chance(0.3))
    noise = draw.log_uniform(chosen.noise)
    std = noise * math.exp(-0.73 * b)
    smooth = draw.uniform((0.0, 0.7))
    plain = scanner.add_noise(draw, pair[0], std * draw.uniform((0.5, 1.5)), smooth, slices.axis)
    weighted = scanner.add_noise(draw, pair[1] * weighted_only, std, smooth, slices.axis)
    # The scanner takes b for nominal: `b` is what it was.
    adc = 1000 * torch.log(plain.clamp(min=1e-4) / weighted.clamp(min=1e-4))
    adc = adc.clamp(0, draw.uniform((3300.0, 5000.0)))
    marked = seen_by_a_reader(shapes[2], noise, scene.spacing_mm, slices.axis) & (shapes[0] > draw.uniform((0.3, 0.5)))
    if scene.skull_stripped:
        kept = scanner.brain_mask(draw, shapes[1], scene.spacing_mm)
        weighted, adc, marked = weighted * kept, adc * kept, marked * kept
    elif draw.chance(0.6):
        adc = adc * (plain > draw.uniform((2.0, 5.0)) * std)
    weighted = weighted * draw.log_uniform((60.0, 3000.0))
    on_grid = slices.regrid(torch.stack([weighted, adc, marked.float()]))
    return on_grid[0], on_grid[1], (on_grid[2] >= 0.5).to(torch.uint8)


def seen_by_a_reader(brighter: Tensor, noise: float, spacing_mm: float, axis: int) -> Tensor:
    """Where infarcts are outlined: by its brightest part one is noticed, then followed where it is fainter.

    A lesion diluted in a thick slice or lost in noise does not count.

    Args:
        brighter: (Z, Y, X), how much brighter DWI is than without the infarct, relative.
        noise: Standard deviation, relative as well.
        spacing_mm: Of the voxels.
        axis: That the slices lie across, counted from the end.

    Returns:
        (Z, Y, X).
    """
    faint = brighter > max(0.12, 2 * noise)
    noticed = brighter > max(0.25, 4 * noise)
    reach = [round(FOLLOWED_MM / spacing_mm)] * 3
    reach[axis] = 1
    near = F.max_pool3d(noticed[None, None].float(), [2 * r + 1 for r in reach], 1, reach)[0, 0]
    return faint & (near > 0)


def _eddy(draw: Draw, scene: Scene, eddy_mm: tuple[float, float]) -> Tensor:
    """Displacement along Y (Z, Y, X) in voxels: shift, shear and scale, which grow from the middle of the head."""
    reach = draw.uniform(eddy_mm) / scene.spacing_mm
    result = torch.full((1, 1, 1), draw.uniform((-reach, reach)), device=draw.device)
    for axis, side in enumerate(scene.size_zyx):
        shape = [1, 1, 1]
        shape[axis] = side
        line = torch.linspace(-1, 1, side, device=draw.device).view(shape)
        result = result + draw.uniform((-reach, reach)) * line
    return result


def _flair(draw: Draw, scene: Scene, config: SynthesisConfig, flair: Tensor, inside: Tensor) -> Tensor:
    """FLAIR as a series of its own: other slices, other coil correction, the patient moved, not distorted."""
    chosen = config.acquisition
    flair = flair * scanner.receive_profile(draw, scene, chosen)
    if not draw.chance(0.15):
        both = scanner.moved(draw, torch.stack([flair, inside]), scene, chosen)
        flair, inside = both[0], both[1]
    slices = scanner.draw_slices(draw, scene, chosen)
    flair = scanner.add_motion(draw, scanner.point_spread(draw, flair, scene, slices, chosen))
    images = slices.acquire(torch.stack([flair, inside]))
    image = images[0] * scanner.slice_gains(draw, slices, draw.uniform((0.0, 0.03)))
    image = scanner.add_noise(draw, image, draw.log_uniform((0.01, 0.08)), draw.uniform((0.0, 0.7)), slices.axis)
    if scene.skull_stripped:
        image = image * scanner.brain_mask(draw, images[1], scene.spacing_mm)
    covered = slices.regrid(image) * draw.log_uniform((60.0, 3000.0))
    if draw.chance(0.1):
        # A field of view that ends before that of DWI.
        end = draw.integer(1, max(1, scene.size_zyx[0] // 5))
        covered[:end] = 0
    return covered
