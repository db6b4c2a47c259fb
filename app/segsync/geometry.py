"""Where voxels lie: `Grid`, `Volume`, canonical orientation and resampling, all in patient millimetres.

Physical coordinates are LPS (x to the patient's left, y to posterior, z to superior), as in ITK and DICOM. Arrays and
everything that meets an array are in (Z, Y, X) order; points and directions are in (x, y, z).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from segsync.arrays import Array, SizeZYX, Triple
from segsync.errors import UsageError, memory_errors

#: Two grids are one where their corners agree to this fraction of a voxel.
SAME_GRID_VOXELS = 1e-3
#: Cosine of the angle between two axes beyond which they are not at right angles; files round to float32.
SHEAR = 1e-3
#: Voxels that are resampled at once, of the image and of the grid: a CT of the whole body never lies there in float32.
SOURCE_VOXELS, TARGET_VOXELS = 2**24, 2**22
FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))


@dataclass(frozen=True)
class Grid:
    """A regular lattice of voxels in patient space.

    Attributes:
        size_zyx: Voxels.
        spacing_zyx: Millimetres.
        origin: Centre of voxel (0, 0, 0): LPS, mm, (x, y, z).
        direction: Row-major 3×3 as SimpleITK gives it; columns are the unit vectors of the X, Y and Z axes in LPS.
    """

    size_zyx: SizeZYX
    spacing_zyx: Triple
    origin: Triple
    direction: tuple[float, ...]

    def __post_init__(self) -> None:
        # ITK inverts directions by an SVD that fails, with a wrong inverse, where an entry is subnormal.
        cleaned = tuple(0.0 if abs(cosine) < np.finfo(np.float64).tiny else cosine for cosine in self.direction)
        object.__setattr__(self, "direction", cleaned)

    @classmethod
    def of(cls, image: sitk.Image) -> "Grid":
        """The grid of a three-dimensional SimpleITK image."""
        size, spacing = image.GetSize(), image.GetSpacing()
        return cls(
            (size[2], size[1], size[0]), (spacing[2], spacing[1], spacing[0]), image.GetOrigin(), image.GetDirection()
        )

    @property
    def spacing_xyz(self) -> Triple:
        """Spacing in mm in SimpleITK's order."""
        z, y, x = self.spacing_zyx
        return x, y, z

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return math.prod(self.spacing_zyx) / 1000.0

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """Direction as a 3×3 matrix; column i is index axis i of (X, Y, Z)."""
        return np.asarray(self.direction, dtype=np.float64).reshape(3, 3)

    def points(self, index_zyx: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """LPS millimetres (…, 3) in (x, y, z) of continuous indices (…, 3) in (Z, Y, X)."""
        index_xyz = np.asarray(index_zyx, dtype=np.float64)[..., ::-1]
        return np.asarray(self.origin) + (index_xyz * self.spacing_xyz) @ self.matrix.T

    def indices(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Continuous indices (…, 3) in (Z, Y, X) of LPS millimetres (…, 3) in (x, y, z)."""
        offset = np.asarray(points, dtype=np.float64) - np.asarray(self.origin)
        index_xyz: npt.NDArray[np.float64] = offset @ np.linalg.inv(self.matrix).T / np.asarray(self.spacing_xyz)
        return index_xyz[..., ::-1]

    def part(self, part: tuple[slice, slice, slice]) -> "Grid":
        """The lattice of `array[part]`; the slices have a start and a stop within the grid."""
        z, y, x = (axis.stop - axis.start for axis in part)
        ox, oy, oz = self.points([axis.start for axis in part])
        return replace(self, size_zyx=(z, y, x), origin=(float(ox), float(oy), float(oz)))

    def corners(self) -> npt.NDArray[np.float64]:
        """LPS millimetres (8, 3) of the centres of the eight corner voxels."""
        z, y, x = (side - 1 for side in self.size_zyx)
        return self.points([(k, j, i) for k in (0, z) for j in (0, y) for i in (0, x)])

    def same_as(self, other: "Grid", voxels: float = SAME_GRID_VOXELS) -> bool:
        """Whether both have the same voxels at the same places, to this fraction of a voxel."""
        tolerance = voxels * min(*self.spacing_zyx, *other.spacing_zyx)
        return self.size_zyx == other.size_zyx and bool(np.abs(self.corners() - other.corners()).max() <= tolerance)

    def describe(self) -> str:
        """Size and spacing for people, in (x, y, z): `128×128×25 voxels of 1.80×1.80×4.80 mm`."""
        size = "×".join(str(side) for side in reversed(self.size_zyx))
        return f"{size} voxels of {'×'.join(f'{mm:.2f}' for mm in self.spacing_xyz)} mm"


class NibabelImage(Protocol):
    """What is read of a spatial image of nibabel (`Nifti1Image`, `MGHImage`, …), which is not needed to run."""

    @property
    def affine(self) -> Any:
        """(4, 4), from indices in (i, j, k) to RAS millimetres."""

    @property
    def dataobj(self) -> Any:
        """The values, scaled, in (i, j, k) order."""


@dataclass(frozen=True)
class Volume:
    """One scalar image.

    Attributes:
        array: (Z, Y, X).
        grid: Its place in space.
        warnings: What of the file's geometry is in doubt.
    """

    array: npt.NDArray[np.generic]
    grid: Grid
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.size_zyx:
            raise ValueError(f"array of shape {self.array.shape} on a grid of size {self.grid.size_zyx}")

    @classmethod
    def from_sitk(cls, image: sitk.Image) -> "Volume":
        """The volume of a SimpleITK image; its values are copied.

        Raises:
            UsageError: The image is not three-dimensional, or has several values in a voxel.
        """
        if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
            raise UsageError(
                f"expected a three-dimensional image of single values, found {image.GetDimension()} dimensions and "
                f"{image.GetNumberOfComponentsPerPixel()} values a voxel"
            )
        return cls(sitk.GetArrayFromImage(image), Grid.of(image))

    @classmethod
    def from_nibabel(cls, image: NibabelImage) -> "Volume":
        """The volume of a nibabel image: its array in (Z, Y, X) order, its affine (RAS) as a grid (LPS).

        Raises:
            UsageError: The image is not three-dimensional, or its affine is missing, singular or sheared, so that no
                grid has its voxels.
        """
        array = np.asanyarray(image.dataobj)
        if array.ndim != 3 or image.affine is None:
            raise UsageError(f"expected a three-dimensional image with an affine, found shape {array.shape}")
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine  # RAS to LPS
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if not np.isfinite(affine).all() or not (spacing > 0).all():
            raise UsageError(f"expected an affine that can be inverted, found {image.affine.tolist()}")
        direction = affine[:3, :3] / spacing
        if np.abs(direction.T @ direction - np.eye(3)).max() > SHEAR:
            raise UsageError(
                "expected an affine whose axes are at right angles, found a sheared one; resample the image"
            )
        x, y, z = (float(mm) for mm in spacing)
        ox, oy, oz = (float(mm) for mm in affine[:3, 3])
        i, j, k = array.shape
        return cls(
            np.ascontiguousarray(array.T), Grid((k, j, i), (z, y, x), (ox, oy, oz), tuple(direction.ravel().tolist()))
        )

    def to_sitk(self) -> sitk.Image:
        """The volume as a SimpleITK image of its own values; booleans become uint8."""
        array = self.array.astype(np.uint8) if self.array.dtype == np.bool_ else self.array
        image = sitk.GetImageFromArray(np.ascontiguousarray(array))
        image.SetSpacing(self.grid.spacing_xyz)
        image.SetOrigin(self.grid.origin)
        image.SetDirection(self.grid.direction)
        return image


def canonical_axes(grid: Grid) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """How to turn a grid so that its axes run most nearly to superior, posterior and left: (Z, Y, X) of LPS.

    Returns the source axis of each target axis and whether that source axis is reversed, both in array order.
    """
    cosines = grid.matrix[::-1, ::-1]  # rows: physical z, y, x; columns: array axes Z, Y, X

    def alignment(order: tuple[int, ...]) -> float:
        return float(sum(abs(cosines[target, source]) for target, source in enumerate(order)))

    z, y, x = max(permutations(range(3)), key=alignment)
    return (z, y, x), (bool(cosines[0, z] < 0), bool(cosines[1, y] < 0), bool(cosines[2, x] < 0))


def canonical_grid(grid: Grid) -> Grid:
    """The same voxels, numbered along the canonical axes; oblique grids stay oblique."""
    axes, flips = canonical_axes(grid)
    first = [0.0, 0.0, 0.0]
    columns = []
    for source, flip in zip(axes, flips, strict=True):
        if flip:
            first[source] = grid.size_zyx[source] - 1
        columns.append(grid.matrix[:, 2 - source] * (-1.0 if flip else 1.0))
    x, y, z = grid.points(first)
    return Grid(
        (grid.size_zyx[axes[0]], grid.size_zyx[axes[1]], grid.size_zyx[axes[2]]),
        (grid.spacing_zyx[axes[0]], grid.spacing_zyx[axes[1]], grid.spacing_zyx[axes[2]]),
        (float(x), float(y), float(z)),
        tuple(float(v) for v in np.stack(columns[::-1], axis=1).ravel()),
    )


def canonical(volume: Volume) -> Volume:
    """The same voxels along the canonical axes: turned and mirrored, not copied and not interpolated."""
    axes, flips = canonical_axes(volume.grid)
    return Volume(_mirrored(volume.array.transpose(axes), flips), canonical_grid(volume.grid))


def respaced(grid: Grid, spacing_zyx: Triple) -> Grid:
    """The canonical grid of another spacing that covers the same field of view, with the same centre."""
    base = canonical_grid(grid)
    extent = [side * mm for side, mm in zip(base.size_zyx, base.spacing_zyx, strict=True)]
    z, y, x = (max(1, math.ceil(mm / step - SAME_GRID_VOXELS)) for mm, step in zip(extent, spacing_zyx, strict=True))
    unplaced = replace(base, size_zyx=(z, y, x), spacing_zyx=spacing_zyx)
    centre = base.points([(side - 1) / 2 for side in base.size_zyx])
    shift = centre - unplaced.points([(z - 1) / 2, (y - 1) / 2, (x - 1) / 2])
    ox, oy, oz = np.asarray(base.origin) + shift
    return replace(unplaced, origin=(float(ox), float(oy), float(oz)))


def reordered(volume: Volume, target: Grid, voxels: float = SAME_GRID_VOXELS) -> npt.NDArray[np.generic] | None:
    """The array on a grid that is a mere turn of the volume's own.

    Args:
        volume: The values.
        target: The grid.
        voxels: The fraction of a voxel by which the corners may lie apart.

    Returns:
        (Z, Y, X), the volume's values in another order; None where the grids differ by more.
    """
    source = canonical(volume)
    if not source.grid.same_as(canonical_grid(target), voxels):
        return None
    back_axes, back_flips = canonical_axes(target)
    return _mirrored(source.array, back_flips).transpose(*np.argsort(back_axes).tolist())


def _mirrored(array: npt.NDArray[np.generic], flips: tuple[bool, bool, bool]) -> npt.NDArray[np.generic]:
    return array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def resample(volume: Volume, target: Grid, *, outside: float = 0.0, antialias: bool = False) -> Array:
    """The volume's values at the voxel centres of another grid, by trilinear interpolation.

    Grids that differ by turns and mirrorings alone are not interpolated: the values come back bit for bit.

    Args:
        volume: The values.
        target: The grid.
        outside: The value beyond the volume's field of view.
        antialias: Whether axes along which `target` is coarser are first smoothed to its resolution, by a Gaussian
            whose FWHM² is the difference of the squared voxel sizes.

    Returns:
        (Z, Y, X) float32.

    Raises:
        MemoryError: Memory has ended.
    """
    parts = resampled_slabs(volume, target, outside=outside, antialias=antialias)
    where, first = next(parts)
    if first.shape == target.size_zyx:
        return first
    array = np.empty(target.size_zyx, dtype=np.float32)
    array[where] = first
    for where, values in parts:
        array[where] = values
    return array


def resampled_slabs(
    volume: Volume, target: Grid, *, outside: float = 0.0, antialias: bool = False
) -> Iterator[tuple[slice, Array]]:
    """What `resample` gives, in slabs along Z that need little memory each.

    Args:
        volume: The image.
        target: The grid wanted.
        outside: As in `resample`.
        antialias: As in `resample`.

    Yields:
        The slab's slice of the target's Z, and its values; the same slices for all volumes on one grid.

    Raises:
        MemoryError: A slab does not fit.
    """
    count = max(math.ceil(volume.array.size / SOURCE_VOXELS), math.ceil(math.prod(target.size_zyx) / TARGET_VOXELS))
    depth, y, x = target.size_zyx
    thickness = math.ceil(depth / count)
    turned = reordered(volume, target)
    for start in range(0, depth, thickness):
        here = slice(start, min(start + thickness, depth))
        if turned is not None:
            yield here, np.ascontiguousarray(turned[here], dtype=np.float32)
            continue
        slab = target.part((here, slice(0, y), slice(0, x))) if thickness < depth else target
        variances = _variances(volume.grid, target) if antialias else [0.0, 0.0, 0.0]
        source = _around(volume, slab, variances) if thickness < depth else volume
        with memory_errors():
            values = _interpolated(source, slab, outside, variances)
        yield here, values


def _around(volume: Volume, slab: Grid, variances: list[float]) -> Volume:
    """The part of a volume that a slab's values depend on, and a little more; at least a voxel."""
    index = volume.grid.indices(slab.corners())
    reach = [2 + _reach(variance, mm) for variance, mm in zip(variances[::-1], volume.grid.spacing_zyx, strict=True)]
    first = np.clip(np.floor(index.min(0)) - reach, 0, np.subtract(volume.array.shape, 1)).astype(int)
    last = np.clip(np.ceil(index.max(0)) + reach, 0, np.subtract(volume.array.shape, 1)).astype(int)
    z, y, x = (slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True))
    return Volume(volume.array[z, y, x], volume.grid.part((z, y, x)))


def _interpolated(volume: Volume, target: Grid, outside: float, variances: list[float]) -> Array:
    image = Volume(volume.array.astype(np.float32, copy=False), volume.grid).to_sitk()
    if any(variances):
        widest = max(1, *(_reach(v, mm) for v, mm in zip(variances, volume.grid.spacing_xyz, strict=True)))
        image = sitk.DiscreteGaussian(image, variances, maximumKernelWidth=2 * widest + 1, maximumError=[0.01] * 3)
    z, y, x = target.size_zyx
    resampled = sitk.Resample(
        image,
        (x, y, z),
        sitk.Transform(3, sitk.sitkIdentity),
        sitk.sitkLinear,
        target.origin,
        target.spacing_xyz,
        target.direction,
        outside,
        sitk.sitkFloat32,
    )
    array: Array = sitk.GetArrayFromImage(resampled)
    return array


def _variances(source: Grid, target: Grid) -> list[float]:
    """Of the Gaussian that brings an image to the target's resolution, along the image's axes x, y, z, in mm²."""
    cosines = np.abs(source.matrix.T @ target.matrix)  # rows: source axes x, y, z; columns: target axes x, y, z
    # A source axis meets the coarsest target axis that it runs along by more than half.
    steps = [max(mm for cosine, mm in zip(row, target.spacing_xyz, strict=True) if cosine > 0.5) for row in cosines]
    return [max(0.0, step**2 - own**2) / FWHM_PER_SIGMA**2 for step, own in zip(steps, source.spacing_xyz, strict=True)]


def _reach(variance: float, mm: float) -> int:
    """How many voxels of this size a Gaussian reaches at most."""
    return math.ceil(6 * math.sqrt(variance) / mm)
