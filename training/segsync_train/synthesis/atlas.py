"""Where each tissue lies in standard space: the mean of the label maps, and the way of a real brain there."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from torch import Tensor

from segsync_train.synthesis.anatomy import Anatomy
from segsync_train.synthesis.fields import sample
from segsync_train.synthesis.tissues import INTRACRANIAL, MNI_OUTLINE_LPS_ZYX, PARENCHYMA, Tissue

FloatArray = npt.NDArray[np.float64]
#: Voxel size of the atlas and what it covers around the brain, mm.
ATLAS_MM, MARGIN_MM = 2.0, 12.0
#: Brightness of fluid and grey matter in the image that scans are registered to, white matter at 1.
FLUID, GREY = 0.3, 0.7


def atlas_first_mm() -> FloatArray:
    """(3,) MNI position (LPS, ZYX, mm) of the atlas' first voxel."""
    return np.array(MNI_OUTLINE_LPS_ZYX[0]) - MARGIN_MM


def tissue_atlas(heads: Sequence[Anatomy], spacing_mm: float) -> Tensor:
    """(11, Z, Y, X) float32: mean fraction of each tissue inside the skull at each place of standard space."""
    low, high = np.array(MNI_OUTLINE_LPS_ZYX)
    size = np.ceil((high - low + 2 * MARGIN_MM) / ATLAS_MM).astype(int)
    axes = [
        torch.arange(int(side)) * ATLAS_MM + float(first) for side, first in zip(size, atlas_first_mm(), strict=True)
    ]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij")).float()
    total = torch.zeros(Tissue.BONE, *place.shape[1:])
    for head in heads:
        back = np.linalg.inv(head.standard_from_mm[:, :3])
        linear = torch.tensor(back, dtype=torch.float32)
        shift = torch.tensor(-back @ head.standard_from_mm[:, 3], dtype=torch.float32).view(3, 1, 1, 1)
        index = ((linear @ place.flatten(1)).view_as(place) + shift) / spacing_mm
        total += sample(head.tissues[INTRACRANIAL].float() / 255, index)
    return total / len(heads)


def register(brain: npt.NDArray[np.float32], spacing_zyx: tuple[float, float, float], atlas: Tensor) -> FloatArray:
    """The affine way of a brain into standard space, by correlation with the atlas.

    Args:
        brain: (Z, Y, X) in LPS order, T1-weighted, without its skull, white matter about 1.
        spacing_zyx: Voxel size in mm.
        atlas: As `tissue_atlas` gives it.

    Returns:
        (3, 4): MNI position (LPS, ZYX, mm) from mm in the array, whose first voxel's centre is at 0 mm.
    """
    parenchyma = atlas[PARENCHYMA].sum(0)
    white = atlas[[Tissue.WHITE, Tissue.CEREBELLAR_WHITE, Tissue.BRAINSTEM]].sum(0)
    fluid = atlas[[Tissue.VENTRICLE, Tissue.OUTER_CSF]].sum(0) * (parenchyma > 0.2)
    fixed = sitk.GetImageFromArray((GREY * (parenchyma - white) + white + FLUID * fluid).numpy())
    fixed.SetSpacing([ATLAS_MM] * 3)
    fixed.SetOrigin(atlas_first_mm()[::-1].tolist())
    moving = sitk.GetImageFromArray(brain)
    moving.SetSpacing(spacing_zyx[::-1])

    start = _by_extent(parenchyma.numpy() > 0.3, brain > 0, spacing_zyx)
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsCorrelation()
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.2)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 0.01, 100, 0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([3, 2])
    method.SetSmoothingSigmasPerLevel([4.0, 2.0])
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(fixed, moving)

    forward = np.reshape(start.GetMatrix(), (3, 3))[::-1, ::-1]
    centre, shift = (np.array(part)[::-1] for part in (start.GetCenter(), start.GetTranslation()))
    back = np.linalg.inv(forward)
    return np.concatenate([back, (-back @ (shift + centre - forward @ centre))[:, None]], axis=1)


def _by_extent(
    atlas: npt.NDArray[np.bool_], brain: npt.NDArray[np.bool_], spacing_zyx: tuple[float, float, float]
) -> sitk.AffineTransform:
    """From atlas to scan by the boxes around both."""
    boxes = []
    for mask, step, first in (
        (atlas, np.full(3, ATLAS_MM), atlas_first_mm()),
        (brain, np.array(spacing_zyx), np.zeros(3)),
    ):
        places = np.argwhere(mask)[::11] * step + first
        boxes.append(np.percentile(places, [0.5, 99.5], axis=0))
    (low, high), (scan_low, scan_high) = boxes
    scale = (scan_high - scan_low) / (high - low)
    middle = (low + high) / 2
    transform = sitk.AffineTransform(3)
    transform.SetCenter(middle[::-1].tolist())
    transform.SetMatrix(np.diag(scale[::-1]).ravel().tolist())
    transform.SetTranslation(((scan_low + scan_high) / 2 - middle)[::-1].tolist())
    return transform
