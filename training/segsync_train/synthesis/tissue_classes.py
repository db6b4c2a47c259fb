"""Fluid, grey and white matter of a real T1-weighted brain, told apart by its own intensities."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage
from sklearn.mixture import GaussianMixture

from segsync.errors import InputError

FloatArray = npt.NDArray[np.float32]
#: Voxels that the mixture is fitted to; more change its means by less than a percent.
SAMPLES = 60_000
#: Smallest distance of grey matter from fluid, and of white from grey matter, relative to white matter.
SMALLEST_STEP = 0.08


@dataclass(frozen=True)
class TissueClasses:
    """A skull-stripped T1 without its shading, as a mixture of three classes.

    Attributes:
        image: (Z, Y, X) float32, white matter at 1, zero outside the brain.
        fractions: (3, Z, Y, X) float32 in 0 to 1: fluid, grey matter, white matter; their sum is 1 inside the brain.
        means: Intensity of the three classes, white matter at 1.
    """

    image: FloatArray
    fractions: FloatArray
    means: tuple[float, float, float]


def tissue_classes(scan: FloatArray, spacing_zyx: tuple[float, float, float], name: str) -> TissueClasses:
    """Correct the shading (N4), fit three Gaussians, and read each voxel as a mixture of two neighbouring classes.

    A voxel between the means of two classes holds both, in proportion to its distance from each (partial volume as in
    Laidlaw et al. 1998).

    Args:
        scan: (Z, Y, X), a brain without its skull; zero is outside.
        spacing_zyx: Voxel size in mm.
        name: How a message calls the scan.

    Raises:
        InputError: The three classes do not lie as fluid, grey and white matter do in a T1-weighted image.
    """
    inside = scan > 0
    if inside.mean() > 0.9 or not inside.any():
        raise InputError(f"{name}: expected a skull-stripped T1 with zeros outside, found {inside.mean():.0%} non-zero")
    inside = ndimage.binary_fill_holes(inside)
    image = _without_shading(scan, inside, spacing_zyx)
    values = image[inside]
    rng = np.random.default_rng(0)
    sample = rng.choice(values, min(SAMPLES, values.size), replace=False)[:, None]
    # As fluid, grey and white matter usually lie in T1; the fit moves them.
    starts = np.percentile(sample, 95) * np.array([[0.25], [0.62], [1.0]])
    mixture = GaussianMixture(3, means_init=starts, random_state=0).fit(sample)
    fluid, grey, white = np.sort(mixture.means_.ravel())
    if min(grey - fluid, white - grey) < SMALLEST_STEP * white:
        raise InputError(
            f"{name}: expected fluid, grey and white matter of rising brightness, found classes at {fluid:.3g}, "
            f"{grey:.3g} and {white:.3g}; give a T1-weighted image"
        )
    means = np.array([fluid, grey, white]) / white
    image = np.where(inside, image / white, 0).astype(np.float32)
    low = np.clip((image - means[0]) / (means[1] - means[0]), 0, 1)
    high = np.clip((image - means[1]) / (means[2] - means[1]), 0, 1)
    fractions = np.stack([1 - low, low - high, high]) * inside
    return TissueClasses(image, fractions.astype(np.float32), (float(means[0]), float(means[1]), 1.0))


def _without_shading(scan: FloatArray, inside: npt.NDArray[np.bool_], spacing_zyx: tuple[float, ...]) -> FloatArray:
    """The scan divided by its bias field (N4, Tustison et al. 2010), which is fitted on voxels of about 4 mm."""
    image = sitk.GetImageFromArray(scan.astype(np.float32))
    image.SetSpacing(spacing_zyx[::-1])
    mask = sitk.GetImageFromArray(inside.astype(np.uint8))
    mask.CopyInformation(image)
    shrink = [max(1, round(4.0 / side)) for side in spacing_zyx[::-1]]
    correction = sitk.N4BiasFieldCorrectionImageFilter()
    correction.SetMaximumNumberOfIterations([30, 20])
    correction.SetNumberOfThreads(1)
    correction.Execute(sitk.Shrink(image, shrink), sitk.Shrink(mask, shrink))
    field = sitk.GetArrayFromImage(correction.GetLogBiasFieldAsImage(image))
    flat: FloatArray = (scan / np.exp(np.clip(field, -1, 1))).astype(np.float32)
    return flat
