"""Real T1-weighted brains without lesions as anatomies: tissues told by the image, their kinds by the atlas.

What the tissues' mean intensities do not explain, the texture of a real scan, is kept beside them. So a scan can be
bent, age and lose tissue as a label map does, and still looks like itself.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from scipy import ndimage
from torch import Tensor

from segsync_train.synthesis.atlas import ATLAS_MM, atlas_first_mm, register
from segsync_train.synthesis.fields import along, gaussian, reduction, sample
from segsync_train.synthesis.tissue_classes import TissueClasses, tissue_classes
from segsync_train.synthesis.tissues import INTRACRANIAL, Tissue

FloatArray = npt.NDArray[np.float64]
#: Tissues that each class of the image can be. What is neither bright nor dark (iron-rich nuclei, brainstem) is in two.
KINDS: tuple[tuple[Tissue, ...], ...] = (
    (Tissue.OUTER_CSF, Tissue.VENTRICLE),
    (Tissue.CORTEX, Tissue.CEREBELLAR_CORTEX, Tissue.DEEP_GREY, Tissue.IRON_GREY, Tissue.BRAINSTEM),
    (Tissue.WHITE, Tissue.CEREBELLAR_WHITE, Tissue.IRON_GREY, Tissue.BRAINSTEM),
)
#: How much every class is its first kind where the atlas knows none of them.
FLOOR = 0.02
#: The atlas is smoothed by so much, since no brain lies exactly on it.
ATLAS_BLUR_MM = 3.0


def read_scan(file: Path, spacing_mm: float, atlas: Tensor) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an `Anatomy` with a real scan, computed from one skull-stripped T1.

    Raises:
        InputError: The image is no skull-stripped T1.
    """
    image = sitk.DICOMOrient(sitk.ReadImage(str(file), sitk.sitkFloat32), "LPS")
    spacing_zyx = (image.GetSpacing()[2], image.GetSpacing()[1], image.GetSpacing()[0])
    classes = tissue_classes(sitk.GetArrayFromImage(image), spacing_zyx, str(file))
    standard = register(classes.image, spacing_zyx, atlas)
    reduced = _reduced(classes, spacing_zyx, spacing_mm)
    # Position 0 mm becomes the centre of the reduced array's first voxel.
    first = (spacing_mm - np.array(spacing_zyx)) / 2
    standard = np.concatenate([standard[:, :3], (standard[:, :3] @ first + standard[:, 3])[:, None]], axis=1)
    tissues = _kinds(reduced[1:], standard, spacing_mm, atlas)
    signals = _signals(reduced[0], tissues)
    texture = reduced[0] - (signals @ tissues.flatten(1)).view(reduced.shape[1:])
    inside = tissues.sum(0) > 0.5
    ventricle = _largest(tissues[Tissue.VENTRICLE].numpy() >= 0.5)
    distance = ndimage.distance_transform_edt(~ventricle, sampling=spacing_mm)
    head = np.zeros((len(Tissue), *tissues.shape[1:]), np.uint8)
    head[INTRACRANIAL] = (tissues * 255).round().to(torch.uint8).numpy()
    return {
        "tissues": head,
        "field_ppm": np.zeros((1, *tissues.shape[1:]), np.float16),
        "ventricle_mm": np.minimum(distance, 255).astype(np.uint8)[None],
        "standard_from_mm": standard,
        "texture": (texture * inside)[None].numpy().astype(np.float16),
        "signals": signals.numpy(),
    }


def _reduced(classes: TissueClasses, spacing_zyx: tuple[float, float, float], spacing_mm: float) -> Tensor:
    """(4, Z, Y, X): image and the three fractions, averaged over the model's voxels."""
    both = torch.from_numpy(np.concatenate([classes.image[None], classes.fractions]))
    for axis, matrix in enumerate(reduction(classes.image.shape, np.array(spacing_zyx), spacing_mm)):
        both = along(both, matrix, axis - 3)
    return both


def _kinds(fractions: Tensor, standard_from_mm: FloatArray, spacing_mm: float, atlas: Tensor) -> Tensor:
    """(11, Z, Y, X): each class divided among its kinds in the proportion that the atlas has there."""
    axes = [torch.arange(side) * spacing_mm for side in fractions.shape[1:]]
    mm = torch.stack(torch.meshgrid(*axes, indexing="ij")).float()
    linear = torch.tensor(standard_from_mm[:, :3], dtype=torch.float32)
    shift = torch.tensor(standard_from_mm[:, 3] - atlas_first_mm(), dtype=torch.float32).view(3, 1, 1, 1)
    place = ((linear @ mm.flatten(1)).view_as(mm) + shift) / ATLAS_MM
    prior = sample(gaussian(atlas, ATLAS_BLUR_MM / ATLAS_MM), place)
    tissues = torch.zeros(Tissue.BONE, *fractions.shape[1:])
    for fraction, kinds in zip(fractions, KINDS, strict=True):
        weights = prior[list(kinds)]
        weights[0] += FLOOR
        tissues[list(kinds)] += fraction * weights / weights.sum(0)
    return tissues


def _signals(image: Tensor, tissues: Tensor) -> Tensor:
    """(11,): intensity of each tissue, by least squares drawn towards the mean of all that is like it."""
    flat, target = tissues.flatten(1).double(), image.flatten().double()
    inside = flat.sum(0) > 0.9
    flat, target = flat[:, inside], target[inside]
    means = (flat @ target) / flat.sum(1).clamp(min=1.0)
    ridge = 1e-3 * len(target)
    system = flat @ flat.T + ridge * torch.eye(len(flat), dtype=torch.float64)
    found = torch.linalg.solve(system, flat @ target + ridge * means).clamp(0.02, 2.0)
    absent = flat.sum(1) < 20
    found[absent] = means[absent].clamp(0.02, 2.0)
    # Vessels are no class of their own: blood is as bright as cortex.
    found[Tissue.ARTERY : Tissue.VEIN + 1] = float(found[Tissue.CORTEX])
    signals: Tensor = (found / found[Tissue.WHITE]).float()
    return signals


def _largest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The largest connected part; an empty mask stays empty."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    largest: npt.NDArray[np.bool_] = parts == 1 + np.argmax(ndimage.sum_labels(mask, parts, range(1, count + 1)))
    return largest
