"""A head of ellipsoids with FreeSurfer's labels and two lesion masks: sources that the generator reads in a second."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from segsync_train.synthesis import SynthesisSources
from segsync_train.synthesis.tissues import MNI_CENTRES_RAS

#: Sides of the label map's voxels, and its ends along X, Y, Z (RAS about the anterior commissure), mm.
VOXEL_MM = 3.0
LOW_MM, HIGH_MM = (-93.0, -126.0, -93.0), (93.0, 96.0, 102.0)


def write_sources(folder: Path, size: float = 1.0) -> SynthesisSources:
    """Folders as `SynthesisSources.below` expects them, each with one small file; returns them.

    size: of the head, relative to a person's; the masks stay in standard space.
    """
    sources = SynthesisSources.below(folder)
    for part in (sources.label_maps, sources.acute_masks, sources.chronic_masks):
        part.mkdir(parents=True)
    _write(_labels(), sources.label_maps / "head.nii.gz", size)
    _write(_inside((-38, -10, 20), (16, 20, 14)), sources.acute_masks / "acute.nii.gz")
    _write(_inside((40, -5, 12), (22, 32, 20)), sources.chronic_masks / "chronic.nii.gz")
    return sources


def _labels() -> npt.NDArray[np.uint16]:
    labels = np.zeros(_places().shape[1:], np.uint16)
    x = _places()[0]
    for number, middle, radii in (
        (511, (0, -18, 2), (86, 106, 98)),
        (515, (0, -18, 6), (79, 98, 88)),
        (24, (0, -18, 8), (72, 91, 74)),
    ):
        labels[_inside(middle, radii)] = number
    for left, right, middle, radii in (
        (3, 42, (0, -18, 10), (69, 87, 69)),
        (2, 41, (0, -18, 10), (61, 79, 61)),
        (4, 43, (0, -20, 16), (14, 36, 9)),
    ):
        labels[_inside(middle, radii)] = left
        labels[_inside(middle, radii) & (x > 0)] = right
    for side, numbers in ((-1, (8, 7)), (1, (47, 46))):
        for number, radius in zip(numbers, (24, 16), strict=True):
            labels[_inside((side * 26, -62, -38), (radius, radius, radius - 4))] = number
    labels[_inside((0, -30, -32), (10, 10, 26))] = 16
    for number, centre in MNI_CENTRES_RAS.items():
        labels[_inside(centre, (6, 6, 6))] = number
    return labels


def _places() -> npt.NDArray[np.float64]:
    """(3, Z, Y, X): X, Y and Z (RAS, mm) of every voxel."""
    axes = [np.arange(low, high, VOXEL_MM) for low, high in zip(LOW_MM, HIGH_MM, strict=True)]
    z, y, x = np.meshgrid(*axes[::-1], indexing="ij")
    return np.stack([x, y, z])


def _inside(middle: tuple[float, ...], radii: tuple[float, ...]) -> npt.NDArray[np.bool_]:
    offset = (_places() - np.reshape(middle, (3, 1, 1, 1))) / np.reshape(radii, (3, 1, 1, 1))
    inside: npt.NDArray[np.bool_] = (offset**2).sum(0) < 1
    return inside


def _write(array: npt.NDArray[np.generic], path: Path, size: float = 1.0) -> None:
    # RAS voxel axes, in ITK's LPS coordinates.
    image = sitk.GetImageFromArray(array.astype(np.uint16))
    image.SetSpacing([VOXEL_MM * size] * 3)
    image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
    image.SetOrigin([-LOW_MM[0] * size, -LOW_MM[1] * size, LOW_MM[2] * size])
    sitk.WriteImage(image, str(path), useCompression=True)
