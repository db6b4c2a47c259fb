"""Extra-axial fluid that pushes the brain aside: arachnoid cysts, wide cisterns, hygromas. Nothing is lost."""

from dataclasses import replace

import torch

from segsync_train.synthesis.fields import Draw, gaussian, sample, smoothstep
from segsync_train.synthesis.lesions import pick
from segsync_train.synthesis.scene import Scene
from segsync_train.synthesis.tissues import INTRACRANIAL, Tissue

#: Radius of the fluid that is grown, mm.
SEED_MM = 2.0


def with_extra_axial_fluid(draw: Draw, scene: Scene) -> Scene:
    """The head with fluid at one place of the brain's surface blown up; the brain beyond it is pressed together."""
    # Beside the skull: in a fissure it would look as lost tissue does.
    outside = 1 - gaussian(scene.tissues[INTRACRANIAL].sum(0), 3.0 / scene.spacing_mm)
    weights = scene.tissues[Tissue.OUTER_CSF] * smoothstep(outside, 0.15, 0.4)
    centre = pick(draw, weights, 1)
    if len(centre) == 0:
        return scene
    radius = draw.log_uniform((5.0, 22.0)) / scene.spacing_mm
    middle = centre[0].tolist()
    reach = int(2.2 * radius) + 2
    low = [max(at - reach, 0) for at in middle]
    high = [min(at + reach + 1, side) for at, side in zip(middle, scene.size_zyx, strict=True)]
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    device = scene.tissues.device
    lines = [torch.arange(a, b, dtype=torch.float32, device=device) for a, b in zip(low, high, strict=True)]
    index = torch.stack(torch.meshgrid(*lines, indexing="ij"))
    offset = index - centre[0].view(3, 1, 1, 1)
    distance = offset.norm(dim=0).clamp(min=1e-3)
    # The brain's side of the place: along the slope of the smoothed tissue.
    near = gaussian(scene.parenchyma[box], 6.0 / scene.spacing_mm)
    slope = torch.stack(torch.gradient(near))[(slice(None), *(at - a for at, a in zip(middle, low, strict=True)))]
    if float(slope.norm()) < 1e-6:
        return scene
    cosine = (offset * (slope / slope.norm()).view(3, 1, 1, 1)).sum(0) / distance
    seed = min(SEED_MM / scene.spacing_mm, 0.5 * radius)
    # From [0, radius] shrunk to [0, seed], then evenly on to where nothing has moved.
    rough = 1 + 0.15 * draw.smooth_noise(distance.shape, radius)[0]
    size = radius * rough
    inside = seed * distance / size
    beyond = seed + (distance - size) * (2.2 * radius - seed) / (2.2 * radius - size)
    source = torch.where(distance < size, inside, beyond)
    source = torch.where(distance < 2.2 * radius, source, distance)
    towards = 1 - smoothstep(cosine, -0.4, 0.5) * (1 - source / distance)
    tissues = scene.tissues.clone()
    start = index.new_tensor(low).view(3, 1, 1, 1)
    tissues[(slice(None), *box)] = sample(scene.tissues[(slice(None), *box)], index - offset * (1 - towards) - start)
    return replace(scene, tissues=tissues)
