"""A healthy brain as T1-weighted MRI, T2-weighted MRI or CT show it: the same anatomy in images unlike each other.

What a network trained on one of them makes of the others is how far it knows the anatomy and not the grey values.
Brains are without their skull and, unlike the generator's patients, neither bent nor sick.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from segsync.arrays import bounding_box
from segsync_train.synthesis.anatomy import fractions, read_labels
from segsync_train.synthesis.diffusion import PARAMETERS
from segsync_train.synthesis.fields import Draw, gaussian, reduction
from segsync_train.synthesis.generator import SyntheticCase
from segsync_train.synthesis.scanner import FWHM
from segsync_train.synthesis.tissues import INTRACRANIAL, LABELS, Tissue

TISSUES = tuple(Tissue)[INTRACRANIAL]
WITHOUT_VESSELS = TISSUES[: Tissue.ARTERY]
#: What is to be found, numbered from 1 in this order; fluid around the brain and vessels are background.
STRUCTURES: dict[str, tuple[Tissue, ...]] = {
    "grey matter": (Tissue.CORTEX, Tissue.CEREBELLAR_CORTEX),
    "white matter": (Tissue.WHITE, Tissue.CEREBELLAR_WHITE, Tissue.BRAINSTEM),
    "ventricles": (Tissue.VENTRICLE,),
    "deep grey matter": (Tissue.DEEP_GREY, Tissue.IRON_GREY),
}
#: Air around the brain; width of the bumps of texture and of uneven brightness. All in mm.
MARGIN_MM, TEXTURE_MM, BIAS_MM = 6.0, 8.0, 60.0
#: T1 in ms at 3 T (Wansapura 1999, Stanisz 2005, rounded); density and T2 are those of `diffusion.PARAMETERS`.
T1_MS: dict[Tissue, float] = {
    Tissue.CORTEX: 1330.0,
    Tissue.WHITE: 830.0,
    Tissue.CEREBELLAR_CORTEX: 1300.0,
    Tissue.CEREBELLAR_WHITE: 830.0,
    Tissue.DEEP_GREY: 1150.0,
    Tissue.IRON_GREY: 1000.0,
    Tissue.BRAINSTEM: 950.0,
    Tissue.VENTRICLE: 4000.0,
    Tissue.OUTER_CSF: 4000.0,
    Tissue.ARTERY: 1700.0,
    Tissue.VEIN: 1600.0,
}
#: Attenuation without contrast agent at 120 kV, HU.
HOUNSFIELD: dict[Tissue, float] = {
    Tissue.CORTEX: 37.0,
    Tissue.WHITE: 29.0,
    Tissue.CEREBELLAR_CORTEX: 37.0,
    Tissue.CEREBELLAR_WHITE: 30.0,
    Tissue.DEEP_GREY: 37.0,
    Tissue.IRON_GREY: 39.0,
    Tissue.BRAINSTEM: 31.0,
    Tissue.VENTRICLE: 6.0,
    Tissue.OUTER_CSF: 8.0,
    Tissue.ARTERY: 45.0,
    Tissue.VEIN: 52.0,
}


@dataclass(frozen=True)
class Contrast:
    """How one kind of image shows a brain. Values are HU, or in MRI relative to white matter.

    Attributes:
        name: Of the folder.
        means: By tissue.
        spread: Standard deviation, between patients, of a tissue's mean.
        texture: Standard deviation of the variation within tissue.
        noise: Of the noise, in MRI of each part of the complex signal.
        bias: Of the logarithm of brightness, which varies smoothly from place to place.
        fwhm_mm: Resolution along (Z, Y, X).
        magnitude: Whether noise is Rician, as in MRI, or else normal.
    """

    name: str
    means: Mapping[Tissue, float]
    spread: float
    texture: float
    noise: float
    bias: float
    fwhm_mm: tuple[float, float, float]
    magnitude: bool = True


def spin_echo(repetition_ms: float, echo_ms: float) -> dict[Tissue, float]:
    """Signal of a spin echo by tissue, relative to white matter: density · (1 - exp(-TR / T1)) · exp(-TE / T2)."""
    signal = {
        tissue: PARAMETERS[tissue][0]
        * (1 - math.exp(-repetition_ms / T1_MS[tissue]))
        * math.exp(-echo_ms / PARAMETERS[tissue][1])
        for tissue in TISSUES
    }
    return {tissue: value / signal[Tissue.WHITE] for tissue, value in signal.items()}


#: Spread, texture, noise, bias and resolution are set to look like clinical images, and measured on none.
CONTRASTS = {
    contrast.name: contrast
    for contrast in (
        Contrast("t1", spin_echo(500.0, 10.0), 0.02, 0.03, 0.03, 0.15, (1.0, 1.0, 1.0)),
        Contrast("t2", spin_echo(4500.0, 100.0), 0.06, 0.05, 0.05, 0.15, (4.0, 1.0, 1.0)),
        Contrast("ct", HOUNSFIELD, 0.7, 0.7, 3.0, 0.0, (3.0, 1.0, 1.0), magnitude=False),
    )
}


def read_brain(file: Path, spacing_mm: float) -> Tensor:
    """Read what is inside the skull of a whole-head label map.

    Args:
        file: The label map.
        spacing_mm: Of the voxels that come out.

    Returns:
        Fractions (11, Z, Y, X), 0 to 1, in LPS order.

    Raises:
        InputError: The file is no such map.
    """
    labels, source_mm = read_labels(file)
    box = bounding_box(np.isin(labels, [label for tissue in WITHOUT_VESSELS for label in LABELS[tissue]]))
    margin = np.ceil(MARGIN_MM / source_mm).astype(int)
    crop = np.pad(labels[box], [(side, side) for side in margin.tolist()])
    matrices = reduction(crop.shape, source_mm, spacing_mm)
    tissues = np.stack([fractions(np.isin(crop, LABELS[tissue]), matrices) for tissue in TISSUES])
    # Vessels of the face and neck lie apart from the brain.
    parts, count = ndimage.label(tissues.sum(0, dtype=np.int32) >= 128)
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel(), minlength=count + 1)[1:])
    return torch.from_numpy(tissues * largest) / 255


@torch.no_grad()
def render(tissues: Tensor, contrast: Contrast, spacing_mm: float, seed: int) -> SyntheticCase:
    """A brain (11, Z, Y, X) as an image of one channel, and its structures; the same seed gives the same voxels."""
    draw = Draw(seed, tissues.device)
    size = tissues.shape[1:]
    inside = tissues.sum(0)
    means = tissues.new_tensor([draw.normal(contrast.means[tissue], contrast.spread) for tissue in TISSUES])
    image = torch.einsum("t,tzyx->zyx", means, tissues)
    image = image + contrast.texture * inside * draw.smooth_noise(size, TEXTURE_MM / spacing_mm)[0]
    image = image * torch.exp(contrast.bias * draw.smooth_noise(size, BIAS_MM / spacing_mm)[0])
    # What the grid itself does not blur.
    wider = [math.sqrt(max(fwhm**2 - spacing_mm**2, 0.0)) for fwhm in contrast.fwhm_mm]
    image = gaussian(image, [width / FWHM / spacing_mm for width in wider])
    noise = contrast.noise * draw.noise((2, *size))
    image = torch.hypot(image + noise[0], noise[1]) if contrast.magnitude else image + noise[0]
    image = torch.where(inside >= 0.5, image, 0.0)
    return SyntheticCase(image[None], structures(tissues), (contrast.name,), spacing_mm, (True,))


def structures(tissues: Tensor) -> Tensor:
    """(Z, Y, X) uint8: the structure that fills most of a voxel where structures fill half of it, else 0."""
    each = torch.stack([tissues[list(parts)].sum(0) for parts in STRUCTURES.values()])
    return torch.where(each.sum(0) >= 0.5, each.argmax(0) + 1, 0).to(torch.uint8)
