"""Lost tissue draws its surroundings in: the ventricle beside it and the sulci about it widen (ex vacuo)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from segsync_train.synthesis.fields import Draw, gaussian, sample
from segsync_train.synthesis.scene import Scene


def retracted(
    draw: Draw, scene: Scene, lesions: Sequence[Tensor], pull_mm: float, reach_mm: float
) -> tuple[Scene, list[Tensor]]:
    """Bend the head towards its lesions; the other side stays as it is.

    Args:
        draw: Of the sample.
        scene: The head.
        lesions: Fractions (Z, Y, X).
        pull_mm: How far the surroundings come nearer to a lesion that is wider than `reach_mm`; to a small one less.
        reach_mm: How far from a lesion's border that is felt.

    Returns:
        The head and the lesions, both bent.
    """
    sigma = reach_mm / scene.spacing_mm
    together = torch.stack(list(lesions)).amax(0)
    slope = torch.stack(torch.gradient(gaussian(together, sigma)))
    # The slope of a smoothed step is 0.4 / sigma at its border.
    steepest = 0.4 / sigma
    shift = -slope * (pull_mm / scene.spacing_mm / steepest)
    shift = shift * (1 + 0.3 * draw.smooth_noise(scene.size_zyx, 2 * sigma))
    axes = [torch.arange(side, dtype=torch.float32, device=shift.device) for side in scene.size_zyx]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij")) + shift
    maps = torch.stack([scene.ventricle_mm, scene.field_ppm])
    layers = [scene.tissues, scene.standard_mm, maps, torch.stack(list(lesions))]
    if scene.texture is not None:
        layers.append(scene.texture[None])
    limits = torch.tensor(scene.size_zyx, device=shift.device).view(3, 1, 1, 1) - 1
    bent = sample(torch.cat(layers), torch.minimum(index.clamp(min=0), limits))
    tissues, standard, (ventricle, field), fractions, *texture = torch.split(bent, [len(layer) for layer in layers])
    scene = replace(
        scene,
        tissues=tissues,
        standard_mm=standard,
        ventricle_mm=ventricle,
        field_ppm=field,
        texture=texture[0][0] if texture else None,
    )
    return scene, list(fractions)
