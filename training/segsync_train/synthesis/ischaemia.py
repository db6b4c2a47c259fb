"""What a closed artery does: infarct, core, the hypoperfused tissue around, and delays without harm."""

from dataclasses import dataclass

import torch
from torch import Tensor

from segsync_train.config.synthesis import LesionConfig
from segsync_train.synthesis import lesions, territories
from segsync_train.synthesis.fields import Draw, gaussian, smoothstep
from segsync_train.synthesis.masks import MaskLibrary
from segsync_train.synthesis.scene import Scene
from segsync_train.synthesis.territories import CAROTID, MIDDLE, Territories
from segsync_train.synthesis.tissues import INTRACRANIAL

#: Weights of how far an occlusion reaches beyond its infarct: a rim; the parts that the infarct touches; all parts of
#: that branch; the whole artery.
REACH = (0.13, 0.3, 0.32, 0.25)
#: Weights of: an infarct much like the core; larger (parts of the penumbra died until the artery was opened, or it
#: never was); smaller (part was saved).
OUTCOME = (0.4, 0.45, 0.15)
#: Usual volume of a patient's infarcts, and how often they are drawn again to get there.
VOLUME_ML, TRIES = (1.0, 350.0), 4
#: Fraction of strokes that had reperfused before the scan: flow is normal or high, the infarct comes nevertheless.
REPERFUSED = 0.05
#: Fraction of brains without infarct in which an artery was closed and opened in time.
SAVED = 0.4
#: Fraction of brains with a narrow carotid, and with a slow heart.
STENOSIS, SLOW = 0.1, 0.12


@dataclass(frozen=True)
class Occlusion:
    """A closed artery.

    Attributes:
        branch: One of `territories.BRANCHES`.
        side: 0 is x < 0 (LPS), 1 is x > 0.
        whole: Whether it is the whole trunk.
    """

    branch: str
    side: int
    whole: bool


@dataclass
class Ischaemia:
    """Where blood is missing, as fractions (Z, Y, X).

    Attributes:
        infarct: The target.
        core: Without any flow.
        penumbra: With too little; it holds the core.
        flooded: Infarct that was reperfused.
        slow: Delay in s without loss of flow.
        occlusions: The closed arteries.
    """

    infarct: Tensor
    core: Tensor
    penumbra: Tensor
    flooded: Tensor
    slow: Tensor
    occlusions: list[Occlusion]


def ischaemia(draw: Draw, scene: Scene, library: MaskLibrary, config: LesionConfig) -> Ischaemia:
    """The strokes of one patient."""
    zero = torch.zeros(scene.size_zyx, device=draw.device)
    result = Ischaemia(zero, zero, zero, zero, zero, [])
    layout = territories.lay_out(draw, scene)
    found = _infarcts(draw, scene, library, config)
    for infarct in found:
        if draw.chance(REPERFUSED):
            result.flooded = torch.maximum(result.flooded, infarct)
        else:
            core = _core(draw, infarct)
            penumbra, occlusion = _hypoperfused(draw, scene, layout, torch.maximum(infarct, core))
            result.core = torch.maximum(result.core, core)
            result.penumbra = torch.maximum(result.penumbra, penumbra)
            result.occlusions.append(occlusion)
        result.infarct = torch.maximum(result.infarct, infarct)
    if not found and draw.chance(SAVED):
        result.penumbra, occlusion = _saved(draw, layout)
        result.occlusions.append(occlusion)
    result.penumbra = result.penumbra * scene.tissues[INTRACRANIAL].sum(0)
    if draw.chance(STENOSIS):
        behind = territories.fed_by(CAROTID, draw.integer(0, 1), draw.device).float()
        result.slow = layout.spread(behind, draw.uniform((8.0, 14.0))) * draw.uniform((1.5, 5.5))
    if draw.chance(SLOW):
        result.slow = result.slow + draw.uniform((0.5, 4.0))
    return result


def _infarcts(draw: Draw, scene: Scene, library: MaskLibrary, config: LesionConfig) -> list[Tensor]:
    """The infarcts of one brain, drawn again where they are too small or too large for a stroke that is treated."""
    found: list[Tensor] = []
    for _ in range(TRIES):
        drawn = lesions.infarcts(draw, scene, library, config)
        found = [fraction for fraction in drawn if bool(fraction.any())]
        volume = sum(float(lesions.outlined(fraction, scene).sum()) for fraction in found) * scene.spacing_mm**3 / 1000
        if not drawn or VOLUME_ML[0] <= volume <= VOLUME_ML[1]:
            break
        config = config.model_copy(update={"none": 0.0})
    return found


def _core(draw: Draw, infarct: Tensor) -> Tensor:
    """The core seen at first, from the infarct that came of it; nothing where all of it was penumbra still."""
    outcome = draw.choice(OUTCOME)
    level = draw.uniform((0.12, 0.3) if outcome == 2 else (0.35, 0.6))
    soft = gaussian(infarct, draw.uniform((0.6, 2.0)))
    rough = draw.uniform((0.0, 0.25)) * draw.smooth_noise(infarct.shape, draw.uniform((2.0, 5.0)))[0]
    core = smoothstep(soft + rough * smoothstep(soft, 0.02, 0.3), level - 0.1, level + 0.1)
    # A lesion smaller than the smoothing would be lost: it is then all core.
    core = core if float(core.sum()) > 0.2 * float(infarct.sum()) else infarct
    if outcome == 1:
        # Tissue dies part by part: whole gyri of what will be infarct still live.
        parts = draw.smooth_noise(infarct.shape, draw.uniform((8.0, 20.0)))[0] + draw.uniform((-1.0, 0.6))
        core = core * smoothstep(parts, -0.15, 0.15)
    return core


def _hypoperfused(draw: Draw, scene: Scene, layout: Territories, core: Tensor) -> tuple[Tensor, Occlusion]:
    """The territory in which a core lies, and the artery that is closed."""
    fractions = layout.fractions(core)
    branch, side = territories.main_branch(fractions)
    rim = territories.grown(core, scene, draw.uniform((3.0, 8.0)))
    reach = draw.choice(REACH)
    if reach == 0:
        return rim, Occlusion(branch, side, whole=False)
    touched = (fractions > draw.uniform((0.1, 0.35))) | (fractions == fractions.max())
    if reach >= 2:
        touched = touched | territories.fed_by([branch], side, draw.device)
    whole = reach == 3 and branch in MIDDLE
    if whole:
        touched = touched | territories.fed_by(MIDDLE if draw.chance(0.8) else CAROTID, side, draw.device)
    return torch.maximum(rim, _spread(draw, layout, touched)), Occlusion(branch, side, whole)


def _saved(draw: Draw, layout: Territories) -> tuple[Tensor, Occlusion]:
    branch = territories.NAMES[draw.choice((0.25, 0.3, 0.05, 0.1, 0.2, 0.1, 0.0))]
    side = draw.integer(0, 1)
    whole = branch in MIDDLE and draw.chance(0.4)
    fed = territories.fed_by(MIDDLE if whole else [branch], side, draw.device)
    if not whole:
        kept = torch.tensor(draw.scalars.random(len(fed)) < 0.7, device=draw.device)
        fed = fed & kept if bool((fed & kept).any()) else fed
    return _spread(draw, layout, fed), Occlusion(branch, side, whole)


def _spread(draw: Draw, layout: Territories, touched: Tensor) -> Tensor:
    """The touched parts with soft borders; collaterals feed one part better than another."""
    depth = torch.tensor(draw.scalars.uniform(0.75, 1.1, len(touched)), dtype=torch.float32, device=draw.device)
    return smoothstep(layout.spread(touched * depth, draw.uniform((3.0, 8.0))), 0.1, 0.9)
