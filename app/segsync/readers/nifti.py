"""NIfTI (.nii, .nii.gz) by nibabel's headers: voxels, scaling, and the one placement of the three a header may hold.

Format: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h. A header may place its voxels by a qform (rotation,
of `pixdim`'s voxel size), by an sform (any affine matrix), or not at all.
"""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from segsync.errors import InputError
from segsync.readers.diffusion import bvalues_beside
from segsync.readers.stored import Matrix, Stored, understood
from segsync.readers.stream import is_gzip, opened, read_voxels

#: What a header begins with, its own length in either byte order, by version.
LITTLE, BIG = "<i4", ">i4"
LENGTHS = {np.array(length, order).tobytes(): n for length, n in ((348, 1), (540, 2)) for order in (LITTLE, BIG)}
#: Bytes before the voxels, extensions included, that are passed over.
EXTENSIONS = 1 << 26
#: Millimetres of the units in `xyzt_units`; other codes and none mean millimetres.
MILLIMETRES = {1: 1000.0, 3: 0.001}
#: Codes of an sform from here on name a template: its scale is the template's, not the patient's.
TEMPLATE = 3
#: The voxel sizes of `pixdim` and sform are one to this share, right angles are right to this cosine.
SAME_SIZE, SAME_ANGLE = 0.01, 1e-3
#: Two placements are one where they agree to so many millimetres.
SAME_PLACE_MM = 1.0
#: NIfTI's x points to the right and its y to the front.
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read(path: Path) -> Stored:
    """Read a NIfTI-1 or -2 file, compressed or not by its content.

    Args:
        path: The file.

    Returns:
        Its content, not yet judged.

    Raises:
        InputError: It is damaged, is no image of numbers, or says two things of its voxels' size.
    """
    with path.open("rb") as file, understood(path, "a NIfTI image"):
        stream, density = opened(file, "gzip" if is_gzip(path) else "raw")
        header = _header(path, stream)
        shape = [int(side) for side in header.get_data_shape()]
        while len(shape) > 3 and shape[-1] == 1:
            shape.pop()
        if not shape or min(shape) < 1:
            raise InputError(f"{path}: expected voxels along every axis, found {shape}; convert the image again")
        dtype = header.get_data_dtype()
        if dtype.kind not in "iuf" or dtype.itemsize > 8:
            raise InputError(
                f"{path}: expected one value a voxel, found {dtype} (colour, complex or vector); convert the image"
            )
        skipped = header.get_data_offset() - header.sizeof_hdr
        if not 0 <= skipped <= EXTENSIONS:
            raise InputError(f"{path}: expected voxels after the header, found an offset of {skipped}; copy it again")
        stream.read(skipped)
        array = _scaled(read_voxels(path, stream, dtype, shape[::-1], density=density), header)
        affine, said = _placement(path, header)
        return Stored.placed(array, affine, said, bvalues_beside(path, len(array)) if array.ndim == 4 else None)


def _header(path: Path, stream: BinaryIO) -> Any:
    from nibabel import nifti1, nifti2  # their import takes time that a start without such a file need not spend

    start = stream.read(4)
    version = LENGTHS.get(start)
    if version is None:
        raise InputError(
            f"{path}: expected a NIfTI image, found {path.stat().st_size} bytes that cannot be decoded; copy or "
            "convert it again"
        )
    kind: Any = nifti1.Nifti1Header if version == 1 else nifti2.Nifti2Header
    header = kind(start + stream.read(kind.template_dtype.itemsize - 4), check=False)
    # 1 or -1, and 1 where it was never set; nibabel alone asks for it.
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    if not bytes(header["magic"]).startswith(b"n+"):
        raise InputError(f"{path}: expected a NIfTI of one file, found the mark {bytes(header['magic'])!r}; convert it")
    return header


def _scaled(array: npt.NDArray[np.generic], header: Any) -> npt.NDArray[np.generic]:
    slope, intercept = header.get_slope_inter()
    if slope is None or (slope, intercept) == (1.0, 0.0):
        return array
    kind = np.float32 if array.dtype.itemsize <= 2 or array.dtype == np.float32 else np.float64
    scaled: npt.NDArray[Any] = array.astype(kind)
    scaled *= kind(slope)
    scaled += kind(intercept)
    return scaled


def _placement(path: Path, header: Any) -> tuple[Matrix, tuple[str, ...]]:
    """The matrix from indices to LPS mm, and what of it is in doubt."""
    unit = MILLIMETRES.get(int(header["xyzt_units"]) % 8, 1.0)
    scale = np.diag([unit, unit, unit, 1.0])
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    if not (np.isfinite(pixdim) & (pixdim > 0)).all():
        found = tuple(float(mm) for mm in header["pixdim"][1:4])
        raise InputError(f"{path}: expected a positive voxel spacing in mm, found {found}; correct the header")
    sform, code = header.get_sform(coded=True)
    qform, _ = header.get_qform(coded=True)
    if sform is None and qform is None:
        return RAS_TO_LPS @ scale @ header.get_base_affine(), (
            "neither qform nor sform: the axes are taken as FSL, SPM and nibabel take them (x to the left, y to the "
            "front, z up); left and right are a guess",
        )
    if sform is None:
        return RAS_TO_LPS @ scale @ qform, ()
    sizes = np.linalg.norm(sform[:3, :3], axis=0)
    same_size = bool((np.abs(sizes - pixdim) <= SAME_SIZE * pixdim).all())
    if qform is None or (not same_size and code < TEMPLATE):
        affine, doubt = (sform, ()) if same_size else _of_one_size(path, sform, sizes, pixdim)
        return RAS_TO_LPS @ scale @ affine, doubt
    used, other = ("sform", "qform") if same_size and _upright(sform, sizes) else ("qform", "sform")
    corners = np.array([(i, j, k, 1) for k in (0, 1) for j in (0, 1) for i in (0, 1)])
    corners[:, :3] *= np.array([max(1, side) - 1 for side in (*header.get_data_shape(), 1, 1)[:3]])
    apart = unit * float(np.linalg.norm((corners @ (sform - qform).T)[:, :3], axis=1).max())
    said = (
        f"qform and sform place the image up to {apart:.0f} mm apart; the {used} is used, and software that prefers "
        f"the {other} will show the mask elsewhere"
    )
    return RAS_TO_LPS @ scale @ (sform if used == "sform" else qform), (said,) if not apart <= SAME_PLACE_MM else ()


def _of_one_size(path: Path, sform: Matrix, sizes: Matrix, pixdim: Matrix) -> tuple[Matrix, tuple[str, ...]]:
    """The sform of the voxel size that the file states, where `pixdim` and sform state two and one is a mere default.

    A default is 1 mm along every axis. Raises InputError where neither is.
    """
    by_pixdim, by_sform = (" × ".join(f"{mm:.4g}" for mm in values) for values in (pixdim, sizes))
    both = f"{by_pixdim} mm as pixdim and {by_sform} mm in the sform"
    if np.allclose(sizes, 1):
        own, affine = "pixdim", sform @ np.diag([*pixdim, 1.0])
    elif np.allclose(pixdim, 1):
        own, affine = "sform", sform
    else:
        raise InputError(f"{path}: expected one voxel size, found {both}; correct the header, or resample the image")
    return affine, (f"two voxel sizes, {both}: 1 mm is the default, so that the {own} is used",)


def _upright(matrix: Matrix, sizes: Matrix) -> bool:
    """Whether the axes stand at right angles."""
    directions = matrix[:3, :3] / sizes
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() <= SAME_ANGLE)
