"""What years do to a brain, in people with and without a lesion: wide sulci and fissures, here more than there."""

from dataclasses import replace

import torch
from torch import Tensor

from segsync_train.config.synthesis import AgeingConfig
from segsync_train.synthesis.fields import Draw, gaussian, smoothstep
from segsync_train.synthesis.scene import Scene
from segsync_train.synthesis.tissues import PARENCHYMA, Tissue

#: Sulci widen by what lies within so much of fluid; brains differ from place to place over the other length, mm.
NEAR_MM, REGION_MM = 2.5, 40.0


def aged(draw: Draw, scene: Scene, config: AgeingConfig) -> Scene:
    """The head with fluid where its sulci end, and with wider sulci."""
    if scene.texture is not None and draw.chance(config.filled):
        scene = _with_fluid_around(scene)
    strength = draw.uniform(config.sulci)
    if strength <= 0:
        return scene
    region = torch.exp(draw.uniform((0.0, 0.8)) * draw.smooth_noise(scene.size_zyx, REGION_MM / scene.spacing_mm)[0])
    return _with_wide_sulci(scene, strength * region)


def inside_dura(scene: Scene) -> Tensor:
    """(Z, Y, X) in 0 to 1: the brain with its sulci closed."""
    all_inside = scene.parenchyma + scene.tissues[Tissue.VENTRICLE] + scene.tissues[Tissue.OUTER_CSF]
    return smoothstep(gaussian(all_inside.clamp(0, 1), 4.0 / scene.spacing_mm), 0.4, 0.55)


def _with_fluid_around(scene: Scene) -> Scene:
    """Fluid in the sulci of a scan whose skull-stripping took it away."""
    missing = (inside_dura(scene) - scene.tissues.sum(0)).clamp(min=0)
    tissues = scene.tissues.clone()
    tissues[Tissue.OUTER_CSF] += missing
    return replace(scene, tissues=tissues)


def _with_wide_sulci(scene: Scene, strength: Tensor) -> Scene:
    """Fluid takes brain's place next to fluid; a strength of 1 takes a voxel that is half surrounded by it."""
    fluid = scene.tissues[Tissue.OUTER_CSF]
    lost = (strength * gaussian(fluid, NEAR_MM / scene.spacing_mm)).clamp(0, 0.95)
    brain = scene.tissues[PARENCHYMA]
    tissues = scene.tissues.clone()
    tissues[PARENCHYMA] = brain * (1 - lost)
    tissues[Tissue.OUTER_CSF] = fluid + brain.sum(0) * lost
    return replace(scene, tissues=tissues)
