"""Phantoms: heads and lesions of ellipsoids, to try everything with where no label map or lesion mask is at hand.

A head has FreeSurfer's labels and those outside the brain, as the real sources do; a network that learned from phantoms
knows ellipsoids.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from segsync.arrays import FloatArray, Mask
from segsync.errors import OutputError
from segsync.geometry import Grid
from segsync.images import write
from segsync_train.synthesis.sources import SynthesisSources
from segsync_train.synthesis.tissues import MNI_CENTRES_RAS

#: Of the files' names.
PREFIX = "phantom_"
#: Ends of the label map along X, Y, Z (RAS about the anterior commissure), mm.
LOW_MM, HIGH_MM = (-93.0, -126.0, -93.0), (93.0, 96.0, 102.0)
#: Middle of the brain, about which it is turned and scaled.
MIDDLE_MM = (0.0, -18.0, 8.0)
#: Structures from the outside in: labels of the left and right side, middle and radii along X, Y, Z in mm.
Ellipsoid = tuple[tuple[int, int], tuple[float, float, float], tuple[float, float, float]]
HEAD: tuple[Ellipsoid, ...] = (
    ((511, 511), (0, -18, 2), (86, 106, 98)),  # skin
    ((515, 515), (0, -18, 6), (79, 98, 88)),  # bone
    ((24, 24), (0, -18, 8), (72, 91, 74)),  # fluid around the brain
    ((3, 42), (0, -18, 10), (69, 87, 69)),  # cortex
    ((2, 41), (0, -18, 10), (61, 79, 61)),  # white matter
    ((4, 43), (0, -20, 16), (14, 36, 9)),  # lateral ventricles
    ((8, 8), (-26, -62, -38), (24, 24, 20)),  # cerebellum: cortex and white matter
    ((7, 7), (-26, -62, -38), (16, 16, 12)),
    ((47, 47), (26, -62, -38), (24, 24, 20)),
    ((46, 46), (26, -62, -38), (16, 16, 12)),
    ((16, 16), (0, -30, -32), (10, 10, 26)),  # brainstem
    *(((label, label), centre, (6, 6, 6)) for label, centre in MNI_CENTRES_RAS.items()),  # deep grey matter
)


def write_phantoms(folder: Path, heads: int = 6, lesions: int = 24, seed: int = 0, spacing_mm: float = 2.0) -> None:
    """Write sources of synthetic cases, as `SynthesisSources.below` expects them; the same seed gives the same files.

    Args:
        folder: Of the three folders that are made.
        heads: Number of heads, which differ in size, pose and proportions.
        lesions: Number of acute and of chronic lesions each, of one to four ellipsoids in standard space.
        seed: Of the drawing.
        spacing_mm: Side of the voxels.

    Raises:
        OutputError: A file cannot be written, or the folder holds other images.
    """
    sources = SynthesisSources.below(folder)
    sources, rng, grid = SynthesisSources.below(folder), np.random.default_rng(seed), grid_of(spacing_mm)
    for part in (sources.label_maps, sources.acute_masks, sources.chronic_masks):
        _check_folder(part)
    for number in range(heads):
        turn = np.radians(rng.uniform(-5, 5, 3))
        labels = head_labels(spacing_mm, rng.uniform(0.94, 1.04, 3), turn, rng.uniform(0.95, 1.05, (len(HEAD), 3)))
        write(labels, grid, sources.label_maps / f"{PREFIX}head_{number:02d}.nii.gz")
    for part, radii in ((sources.acute_masks, (5, 25)), (sources.chronic_masks, (10, 30))):
        for number in range(lesions):
            mask = lesion_mask(rng, radii, spacing_mm)
            write(mask.astype(np.uint8), grid, part / f"{PREFIX}lesion_{number:02d}.nii.gz")


def head_labels(
    spacing_mm: float,
    size: npt.ArrayLike = (1, 1, 1),
    turn: npt.ArrayLike = (0, 0, 0),
    proportions: npt.ArrayLike = 1.0,
) -> npt.NDArray[np.uint16]:
    """The label map (Z, Y, X), RAS, of a head.

    Args:
        spacing_mm: Side of the voxels.
        size: Along X, Y, Z, relative to the atlas.
        turn: Angles about X, Y, Z in radians.
        proportions: Factors of the structures' radii, (structures, 3) or what broadcasts to it.
    """
    rotation = np.array(sitk.Euler3DTransform((0, 0, 0), *np.asarray(turn, float).tolist()).GetMatrix()).reshape(3, 3)
    offsets = places(spacing_mm) - np.reshape(MIDDLE_MM, (3, 1, 1, 1))
    points = np.einsum("ij,j...->i...", rotation, offsets) / np.reshape(size, (3, 1, 1, 1))
    points += np.reshape(MIDDLE_MM, (3, 1, 1, 1))
    factors = np.broadcast_to(proportions, (len(HEAD), 3))
    labels = np.zeros(points.shape[1:], np.uint16)
    for ((left, right), middle, radii), factor in zip(HEAD, factors, strict=True):
        within = inside(points, middle, np.asarray(radii) * factor)
        labels[within] = left
        labels[within & (points[0] > 0)] = right
    return labels


def lesion_mask(rng: np.random.Generator, radii_mm: tuple[float, float], spacing_mm: float) -> Mask:
    """A lesion (Z, Y, X), RAS in standard space: one to four ellipsoids near each other in one hemisphere."""
    points = places(spacing_mm)
    side = rng.choice((-1, 1))
    middle = np.array((side * rng.uniform(15, 50), rng.uniform(-75, 35), rng.uniform(-15, 50)))
    mask = np.zeros(points.shape[1:], bool)
    for _ in range(int(rng.integers(1, 5))):
        radii = rng.uniform(*radii_mm) * rng.uniform(0.6, 1.0, 3)
        mask |= inside(points, middle + rng.uniform(-12, 12, 3), radii)
    return mask & inside(points, HEAD[3][1], HEAD[3][2])  # within the cortex's outer surface


def places(spacing_mm: float) -> FloatArray:
    """(3, Z, Y, X): X, Y and Z (RAS, mm) of every voxel."""
    axes = [np.arange(low, high, spacing_mm) for low, high in zip(LOW_MM, HIGH_MM, strict=True)]
    z, y, x = np.meshgrid(*axes[::-1], indexing="ij")
    return np.stack([x, y, z])


def inside(points: FloatArray, middle: npt.ArrayLike, radii: npt.ArrayLike) -> Mask:
    """Which of the points (3, Z, Y, X) lie in an ellipsoid."""
    offset = (points - np.reshape(middle, (3, 1, 1, 1))) / np.reshape(radii, (3, 1, 1, 1))
    within: Mask = (offset**2).sum(0) < 1
    return within


def grid_of(spacing_mm: float, size: float = 1.0) -> Grid:
    """The grid of `places`, scaled about the anterior commissure: RAS voxel axes, in LPS coordinates."""
    x, y, z = (len(np.arange(low, high, spacing_mm)) for low, high in zip(LOW_MM, HIGH_MM, strict=True))
    origin = (-LOW_MM[0] * size, -LOW_MM[1] * size, LOW_MM[2] * size)
    return Grid((z, y, x), (spacing_mm * size,) * 3, origin, (-1, 0, 0, 0, -1, 0, 0, 0, 1))


def _check_folder(folder: Path) -> None:
    """Raise OutputError where images of another origin lie: phantoms among them would go unnoticed."""
    others = [file for file in folder.glob("*.nii.gz") if not file.name.startswith(PREFIX)]
    if others:
        raise OutputError(f"{folder}: expected no images but phantoms, found {others[0].name}; choose another folder")
