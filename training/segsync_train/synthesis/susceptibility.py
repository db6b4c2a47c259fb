"""The main field's deviation about air cavities: what bends and brightens echo-planar images at the skull base."""

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

#: Difference of volume susceptibility between air and tissue, ppm (Schenck 1996, doi:10.1118/1.597854).
AIR_MINUS_TISSUE_PPM = 9.4
#: Spacing of the computation, mm: the field is smooth outside of the cavities themselves.
COARSE_MM = 2.0
#: Room about the head, in coarse voxels, so that the periodic transform does not see its copies.
PAD = 24


def shimmed_field_ppm(
    air: npt.NDArray[np.bool_],
    source_mm: npt.NDArray[np.float64],
    first_mm: npt.NDArray[np.float64],
    brain: npt.NDArray[np.bool_],
    spacing_mm: float,
) -> npt.NDArray[np.float32]:
    """Field deviation in ppm, main field along Z.

    The field of a susceptibility map is its convolution with a dipole, a product in Fourier space (Marques and Bowtell
    2005, doi:10.1002/cmr.b.20034). A second-order shim over the brain is taken off, as a scanner does.

    Args:
        air: The label map's air.
        source_mm: Its spacing.
        first_mm: Position of `brain`'s first voxel from that of `air`.
        brain: (Z, Y, X).
        spacing_mm: Of `brain`.

    Returns:
        On the grid of `brain`.
    """
    coarse = ndimage.zoom(air.astype(np.float32), source_mm / COARSE_MM, order=1, grid_mode=True, mode="nearest")
    # The neck goes on below the map's end; above and around the head there is air.
    padded = np.pad(coarse, ((PAD, 0), (0, 0), (0, 0)), mode="edge")
    padded = np.pad(padded, ((0, PAD), (PAD, PAD), (PAD, PAD)), constant_values=1.0)
    kz, ky, kx = np.meshgrid(*(np.fft.fftfreq(side) for side in padded.shape), indexing="ij", sparse=True)
    square = kz**2 + ky**2 + kx**2
    square[0, 0, 0] = 1.0
    dipole = 1 / 3 - kz**2 / square
    dipole[0, 0, 0] = 0.0
    field = fft.ifftn(fft.fftn(padded * AIR_MINUS_TISSUE_PPM) * dipole).real.astype(np.float32)
    centre = (source_mm - COARSE_MM) / 2
    axes = [
        (np.arange(size) * spacing_mm + first + shift) / COARSE_MM + PAD
        for size, first, shift in zip(brain.shape, first_mm, centre, strict=True)
    ]
    on_grid = ndimage.map_coordinates(field, np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")
    return _without_second_order(on_grid, brain)


def _without_second_order(field: npt.NDArray[np.float32], brain: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in field.shape), indexing="ij")
    terms = [np.ones_like(z), z, y, x, z * y, z * x, y * x, z * z, y * y, x * x]
    design = np.stack([term[brain] for term in terms], axis=1)
    weights, *_ = np.linalg.lstsq(design, field[brain], rcond=None)
    for term, weight in zip(terms, weights, strict=True):
        field = field - weight * term
    return np.clip(field, -8, 8).astype(np.float32)
